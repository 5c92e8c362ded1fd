"""A training step traced without data: its storages' lifetimes, and its peak memory at any batch size."""
