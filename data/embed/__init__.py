"""Text embeddings of every caption that training may draw, one file per shard."""
