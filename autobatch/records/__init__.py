"""Frozen data that flows through autobatch: standard library only.

Units are in the names: `_seconds`, `_bytes`. Sizes are batch sizes in samples.
"""
