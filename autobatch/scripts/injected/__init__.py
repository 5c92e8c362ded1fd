"""The folder that a measured command has in front of its PYTHONPATH."""
