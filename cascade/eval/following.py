"""How well videos follow their prompts: the share of requested attributes that a parser reads back.

The parser is a function argument (a `_target_` in YAML), so this module works for any world.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from cascade.eval.interval import Change, Share
from cascade.eval.measure import Figure, Generated, Scores

Parser = Callable[[Shaped[Tensor, "c f h w"], float], Mapping[str, str]]
"""(video, fps) → attribute → value; "none" or a missing attribute if it cannot be read."""

ALL = "all"
"""The name of the measure by which a prompt is right if all its attributes are."""
UNREAD = "none"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One prompt: the attributes that it requests, and those read from its video."""

    prompt: str
    wanted: Mapping[str, str]
    read: Mapping[str, str]

    def right(self, name: str) -> bool:
        """Whether attribute `name` is as requested; `ALL`: whether all attributes are."""
        if name == ALL:
            return all(self.right(each) for each in self.wanted)
        return self.read.get(name, UNREAD) == self.wanted[name]

    def to_json(self) -> dict[str, Any]:
        """The prompt, the wanted and the read attributes."""
        return {"prompt": self.prompt, "wanted": dict(self.wanted), "read": dict(self.read)}


@dataclass(frozen=True)
class Following:
    """The readings of a set of prompts, and metrics of them."""

    readings: Sequence[Reading]
    confidence: float = field(default=0.95, kw_only=True)

    def __post_init__(self) -> None:
        asked = {tuple(reading.wanted) for reading in self.readings}
        if len(asked) != 1:
            raise ValueError(
                f"following: every prompt must request the same attributes, got {sorted(asked)}"
            )

    @property
    def attributes(self) -> tuple[str, ...]:
        """The requested attributes, in order."""
        return tuple(self.readings[0].wanted)

    def share(self, name: str = ALL) -> Share:
        """The share of prompts whose attribute `name` is right; `ALL`: all attributes at once."""
        right = sum(reading.right(name) for reading in self.readings)
        return Share(right=right, asked=len(self.readings), confidence=self.confidence)

    def shares(self) -> dict[str, Share]:
        """Every attribute's share, then `ALL`."""
        return {name: self.share(name) for name in (*self.attributes, ALL)}

    def confusion(self, name: str) -> dict[str, dict[str, int]]:
        """Wanted value → read value → count, for one attribute."""
        pairs = Counter((r.wanted[name], r.read.get(name, UNREAD)) for r in self.readings)
        table: dict[str, dict[str, int]] = {}
        for (wanted, read), count in sorted(pairs.items()):
            table.setdefault(wanted, {})[read] = count
        return table

    def change_to(self, other: "Following", name: str = ALL) -> Change:
        """The prompts that `other` gains and loses, on the same prompts.

        Raises:
            ValueError: the prompts are not the same, in the same order.
        """
        pairs = list(zip(self.readings, other.readings, strict=False))
        if len(self.readings) != len(other.readings) or any(
            (a.prompt, a.wanted) != (b.prompt, b.wanted) for a, b in pairs
        ):
            raise ValueError(
                f"following: only the same prompts can be compared in pairs, got "
                f"{len(self.readings)} and {len(other.readings)} that differ"
            )
        before = [a.right(name) for a, _ in pairs]
        after = [b.right(name) for _, b in pairs]
        return Change(
            lost=sum(a and not b for a, b in zip(before, after, strict=True)),
            gained=sum(b and not a for a, b in zip(before, after, strict=True)),
            asked=len(pairs),
            confidence=self.confidence,
        )

    def to_json(self) -> dict[str, Any]:
        """Shares with intervals, confusion tables and every reading."""
        return {
            "shares": {name: share.to_json() for name, share in self.shares().items()},
            "confusion": {name: self.confusion(name) for name in self.attributes},
            "readings": [reading.to_json() for reading in self.readings],
        }


def following(
    videos: Iterable[Shaped[Tensor, "c f h w"]],
    wanted: Sequence[Mapping[str, str]],
    parser: Parser,
    *,
    fps: float,
    prompts: Sequence[str] | None = None,
) -> Following:
    """Read every video with `parser` and compare it with the attributes its prompt requests.

    Raises:
        ValueError: the numbers of videos, prompts and wanted attributes differ, or are zero.
    """
    if not wanted:
        raise ValueError("following: needs at least one prompt, got none")
    prompts = [""] * len(wanted) if prompts is None else prompts
    read = [dict(parser(video, fps)) for video in videos]
    if not len(read) == len(wanted) == len(prompts):
        raise ValueError(
            f"following: needs one video and one prompt for each of {len(wanted)} wanted, got "
            f"{len(read)} videos and {len(prompts)} prompts"
        )
    return Following(
        [
            Reading(prompt=p, wanted=dict(w), read=r)
            for p, w, r in zip(prompts, wanted, read, strict=True)
        ]
    )


class PromptFollowing:
    """The measure of how well videos follow their prompts: each attribute, and all at once."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser

    def __call__(self, made: Generated, stage: str) -> Scores:
        """The scores of a stage; a content's `to_dict` names the attributes that it asks for."""
        found = following(
            made.videos[stage],
            [content.to_dict() for content in made.contents],
            self.parser,
            fps=made.grids[stage].fps,
            prompts=made.prompts,
        )
        return Scores(
            figures={
                name: Figure(each=[float(r.right(name)) for r in found.readings], share=True)
                for name in (ALL, *found.attributes)
            },
            records=[reading.to_json() for reading in found.readings],
        )
