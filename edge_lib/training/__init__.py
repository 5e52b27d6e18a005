"""Training: the loop, checkpoints, processes."""
