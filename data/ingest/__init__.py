"""Shards from videos and images: `python -m data.ingest from=… to=…`.

A child process turns each source file into a *part*: its clips, cut, measured and encoded. Parts
are packed into shards in the order of the sources, so the result does not depend on which source
was finished first, or on how often the run was killed.
"""
