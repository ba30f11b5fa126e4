"""Runs the steps of a stage: the loop, checkpoints, signals and logs."""
