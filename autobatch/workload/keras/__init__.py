"""Compiled Keras 3 models on the torch backend: what they are, how they travel, how they train."""
