"""Training on many processes: weights divided among them, saved in parts, compiled by block."""
