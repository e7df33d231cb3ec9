"""The shard format: tars, their samples and captions, on disks and behind URLs."""
