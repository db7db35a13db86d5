"""Phonetic decision trees: which phones in which contexts share a pdf, found from data."""
