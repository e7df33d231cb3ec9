"""The demo: shards, three stages, videos and a page, in one command."""
