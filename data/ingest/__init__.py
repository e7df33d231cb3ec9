"""From anyone's videos and images to shards: `python -m data.ingest from=… to=…`.

Each source goes, in a process that can be killed, from file to a *part*: its windows cut, measured,
encoded. Parts are then packed into shards in the order of the sources, so the result does not
depend on who was done first, nor on how often the run was killed.
"""
