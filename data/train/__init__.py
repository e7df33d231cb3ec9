"""Shards to training batches: the Lightning data module and its loaders."""
