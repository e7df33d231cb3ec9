"""Everything that the product's commands import, for the process that tests fork them from."""

import importlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

for name in (
    "cascade.train",
    "cascade.sweep",
    "cascade.sample",
    "cascade.plan",
    "cascade.bench.__main__",
    "cascade.overfit",
    "cascade.evaluate",
    "cascade.compare",
    "cascade.reconstruct",
    "cascade.demo",
    "data.ingest",
    "data.recaption",
    "data.embed",
    "data.index",
    "stages.stage",
):
    importlib.import_module(name)
