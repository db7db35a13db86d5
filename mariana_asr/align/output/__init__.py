"""What an alignment tells people: words and phones with their times, and what looks wrong."""
