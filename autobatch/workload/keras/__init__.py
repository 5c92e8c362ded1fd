"""Compiled Keras 3 models on the torch backend: detection, the way to the worker, training."""
