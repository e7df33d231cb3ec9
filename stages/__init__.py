"""The stages of a cascade: one Lightning module each, trained alone."""
