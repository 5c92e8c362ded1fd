"""What is trained: the target, its data, its loss, its optimizers and its training step."""
