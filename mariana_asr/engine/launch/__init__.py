"""Workers: starting them, and what each knows of the group."""
