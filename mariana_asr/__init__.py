"""Mariana ASR: train hybrid DNN-HMM acoustic models from recordings to a word error rate."""

__version__ = "0.1.0"
