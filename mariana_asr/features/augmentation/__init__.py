"""Augmentation of training audio: speed, rooms, noise and volume, as features are computed."""
