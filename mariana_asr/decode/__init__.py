"""WFST decoding over acoustic scores."""
