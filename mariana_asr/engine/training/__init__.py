"""The training loop, its schedule, checkpoints, log and progress."""
