"""Where trials run: a worker process here, ranks that train together, or nodes of a Ray cluster."""
