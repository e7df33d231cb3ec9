"""The speed of a stage's training, of sampling and of its loader: real steps of Lightning, timed.

`clips` makes batches in memory, `steps` runs the fit, `parts` divides a step's time, `kernels`
reads torch's profiler, `speed` puts the figures together and `show` prints them.
"""
