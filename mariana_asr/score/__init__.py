"""Word and character error rates, and the report."""
