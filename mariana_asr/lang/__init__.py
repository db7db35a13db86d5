"""Lexicon, phones, topology, language models and decoding graphs."""
