"""Plan a run's training time: predicted, and from a few real steps on this machine."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from cascade.cores import loader_processes
from cascade.doctor.batches import Ranks
from cascade.doctor.cost import Cost
from cascade.doctor.device import Device
from cascade.doctor.dry import Execution
from cascade.doctor.expected import Expected, expected, figures, settings
from cascade.doctor.figure import Figure, format_value
from cascade.doctor.findings import Findings
from cascade.doctor.loading import Load, expected_loading, kept_after, more_data
from cascade.doctor.measured import Times, measure
from cascade.doctor.micro_batch import MicroBatch
from cascade.doctor.speed import Rates
from cascade.doctor.text_cost import FrozenEncoder
from cascade.doctor.works import Works

#: Wait for data, as a share of a step, above which a warning is given.
WAITING = 0.05


def by_flops(device: Device, cost: Cost, steps: int, utilisation: float) -> dict[str, Figure]:
    """A CPU's times of a step and of the run, at a given share of its peak."""
    assert isinstance(device.peak.value, int | float)
    step = cost.total / (device.peak.value * utilisation)
    note = f"at {format_value(utilisation, 'share')} of {format_value(device.peak.value, 'FLOP/s')}"
    return _predicted(Figure(step, "estimated", "s", note), steps)


def _predicted(step: Figure, steps: int) -> dict[str, Figure]:
    hours = step.value * steps / 3600 if isinstance(step.value, int | float) else None
    note = "training alone" if hours is not None else step.note
    return {
        "step, predicted": step,
        "training time, predicted": Figure(hours, "estimated", "hours", note),
    }


def by_parts(
    record: Findings,
    config: Mapping[str, Any],
    device: Device,
    ranks: Ranks,
    cost: Cost,
    found: MicroBatch,
    works: Works,
    load: Load | None,
    survey: Any,
) -> Expected | None:
    """Add a GPU's times of a step, by part, and of the run; None if the device is unknown."""
    steps = config["stage"]["train"]["steps"]
    peak, bandwidth = device.peak.value, device.bandwidth
    if not isinstance(peak, int | float) or bandwidth is None:
        note = f"the peak of {device.name} in this precision is unknown; trainer=gpu uses bfloat16"
        record.add("time", _predicted(Figure(None, "estimated", "s", note), steps))
        return None
    compiled = config["stage"]["train"].get("compile") is not False
    made = expected(
        works,
        found,
        Rates.of(device.name, peak=peak, bandwidth=bandwidth),
        cost,
        ranks,
        expected_loading(config, device, ranks, found, load, survey),
        compiled=compiled,
        trained=int(record.value("network", "all trained") or 0),
        clipped=bool(config["trainer"].get("gradient_clip_val")),
    )
    if made is not None:
        ways = made.ways(settings(config, made, compiled=compiled, recomputed=cost.recomputed > 0))
        record.add("time", figures(made, ways, compiled=compiled))
        record.add("time", _predicted(record.figures["time"]["step, predicted"], steps))
    return made


def measured(
    record: Findings,
    config: Mapping[str, Any],
    load: Load,
    execution: Execution,
    ranks: Ranks,
    device: Device,
    cost: Cost,
    made: Expected | None,
    survey: Any,
) -> None:
    """Time real steps, and add the run's training time and the wait for data.

    Once all decoded clips are cached, the time to load them is neglected.
    """
    kept = kept_after(survey)
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
    slow = steps if kept is None else min(steps, kept)
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
        own = cost.trains / ranks.count / ranks.accumulate / times.step_s / peak
        record.add("time", {"share of peak": Figure(own, "measured", "share", "of the step alone")})
    rough = (record.value("time", "step, predicted") or 0.0) * ranks.local / ranks.count
    predicted = rough / ranks.accumulate if made is None else made.single_s
    if predicted:
        note = "a micro batch's step with the optimizer, without data"
        ratio = Figure(times.step_s / predicted, "measured", "", note)
        record.add("time", {"measured / predicted": ratio})
    if slow == steps and wait > WAITING * times.step_s:
        load_s, step_s = format_value(times.load_s, "s"), format_value(times.step_s, "s")
        record.advise(
            "warning",
            f"the loader takes {load_s} per micro batch in one process and the step {step_s}: "
            f"with {asked} workers each step waits {format_value(wait, 's')} for data",
            more_data(enough, cores, survey),
        )


def plan_time(
    record: Findings,
    config: dict[str, Any],
    device: Device,
    execution: Execution,
    ranks: Ranks,
    cost: Cost,
    found: MicroBatch,
    works: Works,
    load: Load | None,
    encoder: FrozenEncoder | None,
    survey: Any,
) -> None:
    """Add the predicted time, and that of real steps if this machine can run them."""
    options, steps = config["plan"], config["stage"]["train"]["steps"]
    record.add("time", {"steps": Figure(steps, "counted", "steps")})
    made = None
    if device.cuda:
        made = by_parts(record, config, device, ranks, cost, found, works, load, survey)
    else:
        record.add("time", by_flops(device, cost, steps, options["utilisation"]))
    if encoder is not None and not encoder.precomputed:
        record.advise(
            "warning",
            "every device holds the frozen text encoder and runs it in every step",
            "make embeddings, then stage.text.embeddings=…",
        )
    rough = record.value("time", "step, predicted")
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
    measured(record, config, load, execution, ranks, device, cost, made, survey)
