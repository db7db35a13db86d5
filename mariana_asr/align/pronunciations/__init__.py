"""Probabilities of pronunciations and silence, learnt from alignments."""
