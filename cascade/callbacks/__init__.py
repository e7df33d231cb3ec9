"""What watches and serves a training run: averages, samples, throughput."""
