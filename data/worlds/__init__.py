"""Procedural worlds: captioned videos with ground truth, and parsers that read it back."""
