"""The recipe: its schema, overrides, and the runner of its stages."""
