"""Whether a long video tells its prompt's story: what happens in order, and to the same object.

The reader is a function argument (a `_target_` in YAML), so this module works for any world.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from cascade.eval.following import UNREAD
from cascade.eval.measure import Figure, Generated, Scores

ORDER = "order"
"""The name under which a reader says what happens, in order; its other names are attributes."""
Reader = Callable[[Shaped[Tensor, "c f h w"], float], Mapping[str, Sequence[str]]]
"""(video, fps) → attribute → value in every frame ("none": not read there), and `ORDER`."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What was read from a video beside what its prompt says."""

    wanted: Sequence[str]
    order: Sequence[str]
    kept: Mapping[str, float]
    """Attribute → the share of the frames where it was read that have its most frequent value."""

    @property
    def in_order(self) -> bool:
        """Whether everything happens that the prompt says, in its order, and nothing else."""
        return tuple(self.order) == tuple(self.wanted)

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return {"wanted": [*self.wanted], "order": [*self.order], "kept": dict(self.kept)}


def identity(values: Sequence[str]) -> float:
    """The share of the frames with a value that have the most frequent one; 0: none has."""
    read = Counter(value for value in values if value != UNREAD)
    return max(read.values()) / read.total() if read else 0.0


def stories(
    videos: Iterable[Shaped[Tensor, "c f h w"]],
    wanted: Sequence[Sequence[str]],
    reader: Reader,
    *,
    fps: float,
) -> list[Story]:
    """Read every video with `reader`; `wanted` says what happens in each, in order."""
    read = [reader(video, fps) for video in videos]
    return [
        Story(
            wanted=tuple(asked),
            order=tuple(one[ORDER]),
            kept={name: identity(values) for name, values in one.items() if name != ORDER},
        )
        for one, asked in zip(read, wanted, strict=True)
    ]


class StoryTold:
    """The measure of a story: everything happens in the prompt's order, to the same object."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __call__(self, made: Generated, stage: str) -> Scores:
        """The scores of a stage; a content's `order` says what happens, in order."""
        read = stories(
            made.videos[stage],
            [content.order() for content in made.contents],
            self.reader,
            fps=made.grids[stage].fps,
        )
        figures = {"events in order": Figure(each=[float(s.in_order) for s in read], share=True)}
        for name in read[0].kept if read else ():
            kept = [float(story.kept[name] >= 1) for story in read]
            figures[f"{name} kept"] = Figure(each=kept, share=True)
        return Scores(figures=figures, records=[story.to_json() for story in read])
