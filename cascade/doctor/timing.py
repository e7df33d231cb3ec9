"""How long a run takes: by a few real steps here, or by its FLOPs on another device."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cascade.doctor.batches import Ranks
from cascade.doctor.device import Device
from cascade.doctor.dry import Ways
from cascade.doctor.figure import Figure, said
from cascade.doctor.findings import Findings
from cascade.doctor.measured import Times, measure, read
from cascade.doctor.micro_batch import MicroBatch
from cascade.doctor.text_cost import FrozenEncoder

#: Share of a step that it may wait for data before that is worth a word.
WAITING = 0.05


@dataclass(frozen=True, kw_only=True)
class Load:
    """Real micro batches of one rank, read by one process, and the seconds that each took."""

    batches: list[dict[str, Any]]
    seconds: list[float]
    captions: list[str]

    @staticmethod
    def of(data: Any, config: Mapping[str, Any], ranks: Ranks) -> "Load":
        """The first batches of rank 0; the very first warms up."""
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
    """Seconds and hours by FLOPs at a stated share of the device's peak."""
    peak = device.peak.value
    if not isinstance(peak, int | float):
        note = (
            f"no peak is known of {device.name} in this precision; trainer=gpu trains in bfloat16"
        )
        return {"hours, by FLOPs": Figure(None, "estimated", "hours", note)}
    devices = ranks.count if device.cuda else 1
    step = flops / (devices * peak * utilisation)
    note = f"{said(utilisation, 'share')} of {said(peak, 'FLOP/s')}"
    return {
        "a step, by FLOPs": Figure(step, "estimated", "s", note),
        "hours, by FLOPs": Figure(
            step * steps / 3600,
            "estimated",
            "hours",
            "training alone; a small network uses less of a large device",
        ),
    }


def measured(
    record: Findings,
    config: Mapping[str, Any],
    load: Load,
    ways: Ways,
    ranks: Ranks,
    device: Device,
    flops: float,
    kept_after: float | None,
) -> None:
    """Take real steps, and say how long the run takes and what holds it up.

    After `kept_after` steps clips are kept decoded, and loading costs next to nothing.
    """
    options, cores = config["plan"], os.cpu_count() or 1
    threads = torch.get_num_threads()
    if not ways.cuda:
        torch.set_num_threads(min(threads, max(1, cores // ranks.local)))
    try:
        step = measure(
            config["stage"],
            load.batches,
            ways=ways,
            rounds=options["rounds"],
            warmup=options["warmup"],
        )
    except ValueError as error:
        record.add("time", {"measured": Figure(None, "measured", "", f"skipped: {error}")})
        return
    finally:
        torch.set_num_threads(threads)
    times = Times(load=load.seconds, step=step)
    asked = config["data"].get("loading", {}).get("num_workers", 0)
    workers = min(asked, max(1, cores // ranks.local))
    wait = max(0.0, times.load_s / workers - times.step_s) if workers else times.load_s
    each = ranks.accumulate * (times.step_s + wait)
    steps = config["stage"]["train"]["steps"]
    slow = steps if kept_after is None else min(steps, kept_after * max(1, workers))
    whole = slow * each + (steps - slow) * ranks.accumulate * times.step_s
    until = "" if slow == steps else f", until all clips are kept decoded ({slow:,.0f} steps)"
    enough = max(1, math.ceil(times.load_s / times.step_s))
    spread = f"{min(step):.3g} to {max(step):.3g} s in {len(step)}"
    record.add(
        "time",
        {
            "a micro batch's step": Figure(times.step_s, "measured", "s", f"median, {spread}"),
            "a micro batch's loading": Figure(
                times.load_s, "measured", "s", f"by one process{until}"
            ),
            "wait for data": Figure(
                wait, "estimated", "s", f"per micro batch, {asked} workers{until}"
            ),
            "workers that would do": Figure(
                enough, "estimated", "", "loading over step, rounded up"
            ),
            "steps per second": Figure(
                steps / whole, "measured", "", "with the wait for data, over the whole run"
            ),
            "hours": Figure(
                whole / 3600, "measured", "hours", "training alone, from the steps measured"
            ),
        },
    )
    busy = os.getloadavg()[0] - (0.0 if ways.cuda else threads)
    if busy > 0.5 * cores:
        record.say(
            "warning",
            f"the machine is busy (load {busy:.1f} beside this on {cores} cores): the measured "
            "times are too long",
            "measure again when it is free",
        )
    peak = device.peak.value
    if isinstance(peak, int | float):
        own = flops / ranks.count / ranks.accumulate / times.step_s / peak
        record.add("time", {"share of peak": Figure(own, "measured", "share", "of the step alone")})
    if slow == steps and wait > WAITING * times.step_s:
        record.say(
            "warning",
            f"the loader takes {said(times.load_s, 's')} per micro batch in one process and the "
            f"step {said(times.step_s, 's')}: with {asked} workers the step waits "
            f"{said(wait, 's')}",
            f"data.loading.num_workers={enough}"
            + (f" ({cores} cores here)" if enough > cores else ""),
        )


def look_at_time(
    record: Findings,
    config: dict[str, Any],
    device: Device,
    ways: Ways,
    ranks: Ranks,
    flops: float,
    found: MicroBatch,
    load: Load | None,
    encoder: FrozenEncoder | None,
    kept_after: float | None,
) -> None:
    """Hours by FLOPs, and from real steps where this device can take them."""
    options, steps = config["plan"], config["stage"]["train"]["steps"]
    record.add("time", {"steps": Figure(steps, "counted", "steps")})
    record.add("time", expected(device, flops, ranks, steps, options["utilisation"]))
    if encoder is not None and not encoder.precomputed:
        record.say(
            "warning",
            "the frozen text encoder runs in every step and lies on every device",
            "make embeddings, then stage.text.embeddings=…",
        )
    rough = record.value("time", "a step, by FLOPs")
    why = ""
    if not options["measure"]:
        why = "plan.measure=false"
    elif load is None:
        why = "there is no data to measure with"
    elif not device.here:
        why = f"{device.name} is not here"
    elif not found.fits:
        why = "the step does not fit"
    elif (
        rough is not None and rough * (options["rounds"] + options["warmup"]) > options["measure_s"]
    ):
        why = f"a step would take about {said(rough, 's')}, longer than plan.measure_s allows"
    if why or load is None:
        record.add("time", {"measured": Figure(None, "measured", "", f"skipped: {why}")})
        return
    measured(record, config, load, ways, ranks, device, flops, kept_after)
