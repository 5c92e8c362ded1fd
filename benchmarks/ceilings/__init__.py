"""The parts of the benchmark of memory ceilings: see ../ceiling.py."""
