"""New captions for shards by a vision-language model: `python -m data.recaption`."""
