"""Acoustic features: MFCC, fbank, CMVN, deltas, splicing."""
