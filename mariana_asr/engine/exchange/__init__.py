"""How workers combine what each learnt: one file a way, all measured by the same meter."""
