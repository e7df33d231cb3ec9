"""The state of a run on disk: written atomically, checksummed, kept by a rule, never trusted."""
