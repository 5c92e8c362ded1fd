"""Reports for a browser and for notebooks, as strings."""
