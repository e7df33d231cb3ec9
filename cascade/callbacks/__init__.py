"""Lightning callbacks of a run: checkpoints, stopping, averages, checks, samples, metrics."""
