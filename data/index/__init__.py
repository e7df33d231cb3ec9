"""The sidecar index of a shard: what is in it, what can be read, and why the rest cannot."""
