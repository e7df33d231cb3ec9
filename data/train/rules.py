"""What a stage requires of its clips, derived from its grid and the data options."""

from collections.abc import Sequence
from dataclasses import dataclass

from cascade.grid import Grid
from data.plan.clip_shapes import Shape
from data.plan.fit import BatchBudget, Batching, Fitter
from data.plan.select import Need
from data.train.clip import Clipper
from data.train.options import ClipOptions, SelectionOptions

DIVIDES = (8, 4, 2, 1)


@dataclass(frozen=True, kw_only=True)
class ClipRules:
    """Which samples suit a stage, the shape of each clip, and how many clips make a batch."""

    need: Need
    fitter: Fitter
    batch: BatchBudget

    @property
    def packed(self) -> bool:
        """Whether batches are packed sequences."""
        return self.fitter.batching == "packing"

    @property
    def order(self) -> str:
        """Everything besides data and seed that the order of samples depends on."""
        grid, batch = self.batch.grid, self.batch
        shape = (grid.frames, grid.height, grid.width)
        return f"{self.fitter.batching} of {batch.clips} {shape} by {batch.divides}"


def clip_rules(
    *,
    grid: Grid,
    multiple: Sequence[int],
    global_batch: int,
    batching: Batching,
    divides: int | None,
    clips: ClipOptions,
    selection: SelectionOptions,
) -> ClipRules:
    """The rules of a stage.

    Raises:
        ValueError: the options contradict each other or the grid.
    """
    steps = _triple(multiple)
    frames, height, width = _triple(clips.crop or grid.shape)
    lengths = _lengths(frames, clips.lengths, steps[0])
    need = Need(
        frames=lengths[-1],
        fps=grid.fps,
        rates=tuple(Clipper(seed=0, random=False, rates=clips.rates).rates),
        min_rate=selection.min_rate,
        min_size=_pair(selection.min_size or (0, 0)),
        images=selection.image_share > 0,
        captions=selection.require_captions,
    )
    fitter = Fitter(
        grid=grid,
        multiple=steps,
        crop=None if clips.crop is None else _triple(clips.crop),
        batching=batching,
        lengths=lengths,
        sizes=tuple(clips.sizes),
        max_aspect=clips.max_aspect,
        max_buckets=clips.max_buckets,
        allow_upscale=clips.allow_upscale,
    )
    batch = BatchBudget(
        clips=global_batch,
        grid=Shape(kind="video", frames=frames, height=height, width=width),
        multiple=steps,
        divides=divides or next(n for n in DIVIDES if global_batch % n == 0),
        same=batching == "fixed",
    )
    return ClipRules(need=need, fitter=fitter, batch=batch)


def _lengths(frames: int, additional: Sequence[int], multiple: int) -> tuple[int, ...]:
    """The numbers of frames that clips may have, longest first.

    Raises:
        ValueError: one is not shorter than the stage's, or no multiple of the network's.
    """
    for length in additional:
        if not 0 < length < frames or length % multiple:
            raise ValueError(
                f"data.clips.lengths: {length} must be a multiple of {multiple} and less than the "
                f"stage's {frames} frames"
            )
    return tuple(sorted({frames, *additional}, reverse=True))


def _pair(sides: Sequence[int]) -> tuple[int, int]:
    height, width = sides
    return int(height), int(width)


def _triple(sides: Sequence[int]) -> tuple[int, int, int]:
    frames, height, width = sides
    return int(frames), int(height), int(width)
