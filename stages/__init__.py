"""The stages of a cascade, each trained alone."""
