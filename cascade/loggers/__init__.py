"""Lightning loggers: CSV and W&B."""
