"""The kinds of training loop that are measured, one module each."""
