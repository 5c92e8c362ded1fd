"""The generalization check: what a larger batch costs in statistical efficiency."""
