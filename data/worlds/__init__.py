"""Procedural worlds: captioned videos with their ground truth, and the parsers that read it back."""
