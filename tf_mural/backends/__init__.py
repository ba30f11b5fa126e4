"""The training step on each backend: the same files with the same signatures."""
