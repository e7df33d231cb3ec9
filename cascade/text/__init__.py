"""Text encoders and stored text embeddings."""
