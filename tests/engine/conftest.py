"""Puts this folder where tests find what they share: :mod:`gloo`."""
