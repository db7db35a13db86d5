"""Training on whole utterances: sequence-discriminative criteria on lattices."""
