"""The pipeline of a search and its stages: the order and the time of all measurements."""
