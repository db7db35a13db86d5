"""Kaldi's files of models and trees."""
