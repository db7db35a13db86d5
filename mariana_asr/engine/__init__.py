"""Training of networks on frames: frame store, shuffling, schedule, checkpoints."""
