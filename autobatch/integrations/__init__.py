"""Trainings of other frameworks, measured before they start. Each module imports its own framework only."""
