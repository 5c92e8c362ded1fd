"""The training that is measured: its parts, samples, loss, optimizers and loop."""
