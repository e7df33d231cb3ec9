"""The state of a run on disk: written whole, checksummed, kept by a rule, read with suspicion."""
