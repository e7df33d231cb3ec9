"""Plan a run's training time: from a few real steps on this machine, or from its FLOPs."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cascade.cores import loader_processes
from cascade.doctor.batches import Ranks
from cascade.doctor.device import Device
from cascade.doctor.dry import Execution
from cascade.doctor.figure import Figure, format_value
from cascade.doctor.findings import Findings
from cascade.doctor.measured import Times, measure, read
from cascade.doctor.micro_batch import MicroBatch
from cascade.doctor.text_cost import FrozenEncoder

#: Wait for data, as a share of a step, above which a warning is given.
WAITING = 0.05
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


def expected(
    device: Device, flops: float, ranks: Ranks, steps: int, utilisation: float
) -> dict[str, Figure]:
    """The times of a step and of the run from FLOPs, at a given share of the device's peak."""
    peak = device.peak.value
    if not isinstance(peak, int | float):
        note = f"the peak of {device.name} in this precision is unknown; trainer=gpu uses bfloat16"
        return {"training time, by FLOPs": Figure(None, "estimated", "hours", note)}
    devices = ranks.count if device.cuda else 1
    step = flops / (devices * peak * utilisation)
    note = f"at {format_value(utilisation, 'share')} of {format_value(peak, 'FLOP/s')}"
    return {
        "step, by FLOPs": Figure(step, "estimated", "s", note),
        "training time, by FLOPs": Figure(
            step * steps / 3600,
            "estimated",
            "hours",
            "training alone; a small network reaches a smaller share of a large device's peak",
        ),
    }


def measured(
    record: Findings,
    config: Mapping[str, Any],
    load: Load,
    execution: Execution,
    ranks: Ranks,
    device: Device,
    flops: float,
    survey: Any,
) -> None:
    """Time real steps, and add the run's training time and the wait for data.

    Once all decoded clips are cached, the time to load them is neglected.
    """
    kept_after = _kept_after(survey)
    options, cores = config["plan"], os.cpu_count() or 1
    threads = torch.get_num_threads()
    if not execution.cuda:
        torch.set_num_threads(min(threads, max(1, cores // ranks.local)))
    try:
        step = measure(
            config["stage"],
            load.batches,
            execution=execution,
            rounds=options["rounds"],
            warmup=options["warmup"],
        )
    except ValueError as error:
        record.add("time", {"real steps": Figure(None, "measured", "", f"skipped: {error}")})
        return
    finally:
        torch.set_num_threads(threads)
    times = Times(load=load.seconds, step=step)
    asked = loader_processes(config["data"].get("loading", {}).get("num_workers", 0), ranks.local)
    workers = min(asked, max(1, cores // ranks.local))
    wait = max(0.0, times.load_s / workers - times.step_s) if workers else times.load_s
    each = ranks.accumulate * (times.step_s + wait)
    steps = config["stage"]["train"]["steps"]
    slow = steps if kept_after is None else min(steps, kept_after)
    total = slow * each + (steps - slow) * ranks.accumulate * times.step_s
    until = "" if slow == steps else f", until all decoded clips are cached ({slow:,.0f} steps)"
    enough = max(1, math.ceil(times.load_s / times.step_s))
    spread = f"{min(step):.3g} to {max(step):.3g} s in {len(step)}"
    record.add(
        "time",
        {
            "step of a micro batch": Figure(times.step_s, "measured", "s", f"median, {spread}"),
            "loading of a micro batch": Figure(
                times.load_s, "measured", "s", f"by one process{until}"
            ),
            "wait for data": Figure(
                wait, "estimated", "s", f"per micro batch, {asked} workers{until}"
            ),
            "workers needed": Figure(
                enough, "estimated", "", "loading time / step time, rounded up"
            ),
            "steps per second": Figure(
                steps / total, "measured", "", "with the wait for data, over the whole run"
            ),
            "training time": Figure(
                total / 3600, "measured", "hours", "training alone, from the measured steps"
            ),
        },
    )
    busy = os.getloadavg()[0] - (0.0 if execution.cuda else threads)
    if busy > 0.5 * cores:
        record.advise(
            "warning",
            f"the machine is busy (load {busy:.1f} of other processes on {cores} cores): the "
            "measured times are too long",
            "plan again when the machine is idle",
        )
    peak = device.peak.value
    if isinstance(peak, int | float):
        own = flops / ranks.count / ranks.accumulate / times.step_s / peak
        record.add("time", {"share of peak": Figure(own, "measured", "share", "of the step alone")})
    if slow == steps and wait > WAITING * times.step_s:
        load_s, step_s = format_value(times.load_s, "s"), format_value(times.step_s, "s")
        record.advise(
            "warning",
            f"the loader takes {load_s} per micro batch in one process and the step {step_s}: "
            f"with {asked} workers each step waits {format_value(wait, 's')} for data",
            more_data(enough, cores, survey),
        )


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


def _kept_after(survey: Any) -> float | None:
    """Steps until all decoded clips are cached; None if they are not cached."""
    if survey is None:
        return None
    kept = any(size for name, size in survey.cache_bytes.items() if name.startswith("decoded"))
    return float(survey.batches_per_epoch) if kept else None


def plan_time(
    record: Findings,
    config: dict[str, Any],
    device: Device,
    execution: Execution,
    ranks: Ranks,
    flops: float,
    found: MicroBatch,
    load: Load | None,
    encoder: FrozenEncoder | None,
    survey: Any,
) -> None:
    """Add the training time from FLOPs, and from real steps if this machine can run them."""
    options, steps = config["plan"], config["stage"]["train"]["steps"]
    record.add("time", {"steps": Figure(steps, "counted", "steps")})
    record.add("time", expected(device, flops, ranks, steps, options["utilisation"]))
    if encoder is not None and not encoder.precomputed:
        record.advise(
            "warning",
            "every device holds the frozen text encoder and runs it in every step",
            "make embeddings, then stage.text.embeddings=…",
        )
    rough = record.value("time", "step, by FLOPs")
    count = options["rounds"] + options["warmup"]
    why = ""
    if not options["measure"]:
        why = "plan.measure=false"
    elif load is None:
        why = "there is no data"
    elif not device.here:
        why = f"{device.name} is not on this machine"
    elif not found.fits:
        why = "the step does not fit the device"
    elif rough is not None and rough * count > options["measure_s"]:
        why = (
            f"{count} steps of about {format_value(rough, 's')} exceed "
            f"plan.measure_s={options['measure_s']:g}"
        )
    if why or load is None:
        record.add("time", {"real steps": Figure(None, "measured", "", f"skipped: {why}")})
        return
    measured(record, config, load, execution, ranks, device, flops, survey)
