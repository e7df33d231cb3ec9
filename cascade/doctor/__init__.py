"""What is known of a run before its first step: memory, FLOPs, time, files, and what is amiss."""
