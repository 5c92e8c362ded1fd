"""Independent trials on the machines of a Ray cluster, which is imported when it is used."""
