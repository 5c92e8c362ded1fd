"""Reports for a terminal, as strings."""
