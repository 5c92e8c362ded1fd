"""The parts of on_gpu.py. Each has `run(report)`, and runs in a process that may be stopped at any time."""
