"""Compare several runs: their config differences, metrics and sample videos."""
