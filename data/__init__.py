"""From shards to batches: index, plan, decoder, module; and worlds with ground truth."""
