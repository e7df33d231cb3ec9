"""How fast a run's clips are loaded, and the ways to load them faster."""

import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.cores import loader_processes
from cascade.doctor.batches import Ranks
from cascade.doctor.device import Device
from cascade.doctor.figure import How, format_value
from cascade.doctor.measured import read
from cascade.doctor.micro_batch import MicroBatch

#: The share of the machine's memory that cached clips may take, to be advised.
CACHED = 0.25
#: How much larger than needed stored videos are before smaller ones are advised.
SMALLER = 1.5


@dataclass(frozen=True, kw_only=True)
class Load:
    """Real micro batches of one rank, loaded in one process, and the seconds that each took."""

    batches: list[dict[str, Any]]
    seconds: list[float]
    captions: list[str]

    @staticmethod
    def of(data: Any, config: Mapping[str, Any], ranks: Ranks) -> "Load":
        """The first batches of rank 0; the time of the first one is left out as a warm-up."""
        options = config["plan"]
        count = options["rounds"] + 1 if options["measure"] else 1
        loader = data.train_loader(
            first=0, count=count, rank=0, world=ranks.count, accumulate=ranks.accumulate
        )
        batches, seconds = read(iter(loader), count)
        captions = [caption for batch in batches for caption in batch["caption"]]
        return Load(batches=batches, seconds=seconds[1:] or seconds, captions=captions)


@dataclass(frozen=True, kw_only=True)
class Loading:
    """One process loads a micro batch in `seconds`; `workers` do so at once, None if unknown."""

    seconds: float
    workers: int | None
    how: How

    @property
    def each(self) -> float:
        """Seconds per micro batch by all workers; 0 if their number is unknown."""
        return 0.0 if self.workers is None else self.seconds / max(1, self.workers)

    def wait(self, step: float) -> float:
        """Seconds for which a micro batch's step waits for its data."""
        return self.each if self.workers == 0 else max(0.0, self.each - step)


def expected_loading(
    config: Mapping[str, Any],
    device: Device,
    ranks: Ranks,
    found: MicroBatch,
    load: Load | None,
    survey: Any,
) -> Loading:
    """How micro batches load: as measured on this machine, or in the CPU time that is usual.

    The number of workers is unknown if it follows from another machine's cores.
    """
    micro, _ = found.runs(ranks.accumulate)
    if load is None or not load.seconds:
        clip_s = config["plan"]["clip_ms"] / 1e3
        return Loading(seconds=micro * clip_s, workers=None, how="estimated")
    seconds = statistics.median(load.seconds) * micro / found.micro
    asked = (config["data"].get("loading") or {}).get("num_workers", 0)
    known = (asked is not None or device.here) and kept_after(survey) is None
    workers = loader_processes(asked, ranks.local) if known else None
    return Loading(seconds=seconds, workers=workers, how="measured")


def kept_after(survey: Any) -> float | None:
    """Steps until all decoded clips are cached; None if they are not cached."""
    if survey is None:
        return None
    kept = any(size for name, size in survey.cache_bytes.items() if name.startswith("decoded"))
    return float(survey.batches_per_epoch) if kept else None


def more_data(workers: int, cores: int, survey: Any) -> str:
    """The ways to load clips as fast as `workers` processes would, on a machine of `cores`."""
    if workers <= cores or survey is None:
        return f"data.loading.num_workers={workers}"
    ways = []
    size = survey.decoded_bytes
    if size < CACHED * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        ways.append(
            f"data.loading.num_workers=0 data.loading.cache_bytes={math.ceil(size)}: all decoded "
            f"clips are kept in {format_value(size, 'bytes')} of memory"
        )
    if survey.stored_side > SMALLER * survey.needed_side:
        side = 2 * math.ceil(survey.needed_side / 2)
        ways.append(
            f"smaller videos: the stored ones have a short side of {survey.stored_side:g} pixels, "
            f"and this stage needs {survey.needed_side}: make shards … "
            f"ARGS='encoding.short_side={side} filters.min_short_side={side}'"
        )
    ways.append(f"data.loading.num_workers={workers} on a machine of more than {cores} cores")
    return "; or ".join(ways)
