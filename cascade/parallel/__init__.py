"""Training on many processes: sharded weights, sharded checkpoints, blocks compiled one by one."""
