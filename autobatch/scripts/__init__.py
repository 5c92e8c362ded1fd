"""Unmodified training commands: watched, measured, and run with the batch size that was recommended."""
