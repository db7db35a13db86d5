"""Kaldi data directories, audio files and the preparers of corpora."""
