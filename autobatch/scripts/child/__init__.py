"""The side of a measurement that lives in the user's training process.

It needs torch and the standard library alone, and imports its own modules by relative names: the command may
run in an environment without autobatch, where it is loaded from its files under another name.
"""
