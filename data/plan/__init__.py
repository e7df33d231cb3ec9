"""Which samples a stage trains on, in which order, shape and batch; decided from the index."""
