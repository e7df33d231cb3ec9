"""Claims about a trained run, each checked with a figure and a tolerance: `make prove`."""
