"""Training: the loop, checkpoints, preemption and metrics."""
