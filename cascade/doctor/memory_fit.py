"""Plan a rank's memory: the parts of a step, and whether they fit the device."""

from collections.abc import Mapping
from typing import Any

from cascade.doctor.batches import BatchShape, Ranks
from cascade.doctor.device import Device
from cascade.doctor.dry import DryStage, Execution
from cascade.doctor.figure import Figure, format_value
from cascade.doctor.findings import Findings
from cascade.doctor.micro_batch import Extrapolated, MicroBatch, Room, fit, sharded
from cascade.doctor.text_cost import FrozenEncoder
from cascade.doctor.work import Work
from cascade.doctor.works import Works
from cascade.memory import StepMemory

#: Notes on the parts of a step's memory.
NOTES = {
    "weights": "parameters and buffers",
    "frozen": "weights of the frozen text encoder, in half precision",
    "optimizer": "the optimizer's state",
    "averages": "EMA weights in float32, one copy per EMA width",
    "buckets": "copies of gradients for DDP's all-reduce",
    "gradients": "gradients that exist at the peak",
    "gathered": "unsharded weights and gradients of the largest block",
    "activations": "the batch, tensors saved by the forward pass, autocast's weights",
    "temporaries": "of the backward pass and the optimizer; recomputed activations",
}


def plan_memory(
    record: Findings,
    dry: DryStage,
    bucket: BatchShape,
    ranks: Ranks,
    execution: Execution,
    device: Device,
    encoder: FrozenEncoder | None,
    options: Mapping[str, Any],
) -> tuple[MicroBatch, Works]:
    """Add the memory of a step of the largest bucket.

    Returns the micro batch that fits, and the work of the steps that were counted for it.
    """
    share = ranks.share(bucket.clips.count)
    frozen = 0 if encoder is None else encoder.bytes

    works = Works()

    def step(count: int, accumulating: bool) -> StepMemory:
        work = Work() if device.cuda and len(works.counted) < 2 else None
        found = dry.memory(
            bucket.clips.times(count),
            execution,
            frozen_bytes=frozen,
            accumulating=accumulating,
            work=work,
        )
        if work is not None:
            works.counted[count] = work.parts
        return sharded(found, ranks.count, dry.gathered) if ranks.sharded else found

    kind = "cuda" if device.cuda else "cpu"
    assert isinstance(device.memory.value, int | float)
    memory = device.memory.value / (1 if device.cuda else ranks.local)
    room = Room(
        memory=memory, reserved=options["reserved_mib"][kind] * 2**20, slack=options["slack"][kind]
    )
    found = fit(Extrapolated(step), room, share=share, accumulate=ranks.accumulate)
    how: Any = "estimated" if ranks.sharded else "counted"
    needed = room.needed(found.step.peak)
    shape = f"{found.micro:,} clips of {bucket.clips.frames}×{bucket.clips.height}×"
    shape += f"{bucket.clips.width}"
    when = {
        "activations": "at the end of the forward pass",
        "temporaries": "in the backward pass or the optimizer's step",
    }.get(found.step.peak_at, "before the forward pass")
    reserved, slack = format_value(room.reserved, "bytes"), format_value(room.slack, "share")
    all_fit = found.largest == share
    record.add(
        "memory",
        {
            **{
                name: Figure(size, how, "bytes", NOTES.get(name, ""))
                for name, size in found.step.parts.items()
            },
            "peak of a step": Figure(
                found.step.peak,
                how,
                "bytes",
                f"{shape}; attention saves no scores; the peak is {when}",
            ),
            "saved for backward": Figure(found.step.saved, how, "bytes", "part of the peak"),
            "needed per rank": Figure(
                round(needed),
                "estimated",
                "bytes",
                f"the peak, {slack} lost in the allocator, and {reserved} reserved",
            ),
            "device memory": Figure(
                round(memory),
                device.memory.how,
                "bytes",
                device.name
                + (f", shared by {ranks.local} ranks" if memory != device.memory.value else ""),
            ),
            "share of device memory": Figure(needed / memory, "estimated", "share"),
            "micro batch that fits": Figure(
                found.largest,
                how,
                "clips",
                "a rank's whole share of the batch; more was not tried" if all_fit else "at most",
                at_least=all_fit,
            ),
        },
    )
    if not found.fits:
        _too_big(record, found, dry, device, needed, memory)
    elif needed > options["thresholds"]["memory"] * memory:
        record.advise(
            "warning",
            f"a step needs {format_value(needed / memory, 'share')} of the memory of "
            f"{device.name}, more than plan.thresholds.memory={options['thresholds']['memory']:g}",
            "a smaller micro batch: double trainer.accumulate_grad_batches",
        )
    return found, works


def _too_big(
    record: Findings, found: MicroBatch, dry: DryStage, device: Device, needed: float, memory: float
) -> None:
    what = (
        f"a step of {found.micro:,} clips needs {format_value(needed, 'bytes')}, but {device.name} "
        f"has {format_value(memory, 'bytes')} per rank"
    )
    if found.suggested is not None:
        micro, accumulate = found.suggested
        out = f"trainer.accumulate_grad_batches={accumulate}: micro batches of {micro} fit"
        record.add(
            "memory",
            {
                "accumulated batches that fit": Figure(
                    accumulate, "counted", "", f"micro batches of {micro}, the same global batch"
                )
            },
        )
    elif not dry.checkpointing and hasattr(dry.stage.net, "checkpointing"):
        out = "not even one clip fits: stage.net.checkpointing=true, or a larger device"
    else:
        out = "not even one clip fits: a sharding strategy, a smaller stage, or a larger device"
    record.advise("error", what, out)
