"""One training step traced without data: what is alive when, and the peak at any batch size."""
