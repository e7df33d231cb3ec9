"""Plan a run before its first step: data, memory, FLOPs, time, files, errors and warnings."""
