"""Whether the run fits its device."""

from collections.abc import Mapping
from typing import Any

from cascade.doctor.batches import BatchShape, Ranks
from cascade.doctor.device import Device
from cascade.doctor.dry import DryStage, Ways
from cascade.doctor.figure import Figure, said
from cascade.doctor.findings import Findings
from cascade.doctor.micro_batch import Extrapolated, MicroBatch, Room, fit, sharded
from cascade.doctor.text_cost import FrozenEncoder
from cascade.memory import StepMemory

#: What the parts of a step's memory are.
NOTES = {
    "weights": "parameters and buffers",
    "frozen": "of the text encoder, in half precision",
    "optimizer": "the optimizer's state",
    "averages": "of the weights, in float32, one copy per width",
    "buckets": "gradients copied to be summed over ranks (DDP)",
    "gradients": "those that live at the peak",
    "gathered": "the largest block's weights and gradients, whole",
    "activations": "the batch, what the forward pass saves, autocast's weights",
    "temporaries": "of the backward pass and the optimizer; what is computed again",
}


def look_at_memory(
    record: Findings,
    dry: DryStage,
    bucket: BatchShape,
    ranks: Ranks,
    ways: Ways,
    device: Device,
    encoder: FrozenEncoder | None,
    options: Mapping[str, Any],
) -> MicroBatch:
    """A step of the largest bucket against the device, and the micro batch that would fit."""
    share = ranks.share(bucket.clips.count)
    frozen = 0 if encoder is None else encoder.bytes

    def step(count: int, accumulating: bool) -> StepMemory:
        found = dry.memory(
            bucket.clips.times(count), ways, frozen_bytes=frozen, accumulating=accumulating
        )
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
    kernels = "attention keeps no scores"
    when = {
        "activations": "when the forward pass ends",
        "temporaries": "in the backward pass or the optimizer's step",
    }.get(found.step.peak_at, "before the forward pass")
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
                f"{shape}; {kernels}; highest {when}",
            ),
            "saved for backward": Figure(found.step.saved, how, "bytes", "within the peak"),
            "needed": Figure(
                round(needed),
                "estimated",
                "bytes",
                f"with {said(room.reserved, 'bytes')} reserved and {said(room.slack, 'share')} "
                "lost to the allocator",
            ),
            "of the device": Figure(
                round(memory),
                device.memory.how,
                "bytes",
                device.name
                + (f", shared by {ranks.local} ranks" if memory != device.memory.value else ""),
            ),
            "share of the device": Figure(needed / memory, "estimated", "share"),
            "largest micro batch": Figure(
                found.largest,
                how,
                "clips",
                "all of a rank's share" if found.largest == share else "that fits",
            ),
        },
    )
    if not found.fits:
        _too_big(record, found, dry, device, needed, memory)
    elif needed > options["thresholds"]["memory"] * memory:
        record.say(
            "warning",
            f"a step needs {said(needed / memory, 'share')} of {device.name}",
            "a smaller micro batch: double trainer.accumulate_grad_batches",
        )
    return found


def _too_big(
    record: Findings, found: MicroBatch, dry: DryStage, device: Device, needed: float, memory: float
) -> None:
    what = (
        f"a step of {found.micro:,} clips needs {said(needed, 'bytes')}, but {device.name} gives a "
        f"rank {said(memory, 'bytes')}"
    )
    if found.suggested is not None:
        micro, accumulate = found.suggested
        out = f"trainer.accumulate_grad_batches={accumulate}: micro batches of {micro} fit"
        record.add(
            "memory",
            {
                "accumulation that fits": Figure(
                    accumulate, "counted", "", f"micro batches of {micro}, the same global batch"
                )
            },
        )
    elif not dry.checkpointing and hasattr(dry.stage.net, "checkpointing"):
        out = "not even one clip fits: stage.net.checkpointing=true, or a larger device"
    else:
        out = "not even one clip fits: a sharding strategy, a smaller stage, or a larger device"
    record.say("error", what, out)
