"""Acoustic models: networks, their input and their files."""
