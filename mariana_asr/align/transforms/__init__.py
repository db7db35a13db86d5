"""Transforms of features that are estimated from data: LDA, MLLT, fMLLR."""
