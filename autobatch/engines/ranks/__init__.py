"""Beyond one process: ranks that measure together."""
