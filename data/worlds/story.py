"""The words of the world of a minute: an object, what it does, and what it does next, and when.

A story is what the object does in each of four parts of a minute; where a part differs from the
one before, something happens, and the prompt says what, and after how many seconds.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from data.worlds.attributes import BACKGROUNDS, COLOURS
from data.worlds.raster import SHAPES

ACROSS, UPRIGHT, STILL, GONE = DOINGS = ("sideways", "up and down", "still", "gone")
"""What the object does: it goes to and fro between two borders, rests, or is out of the frame."""
STARTS = (0.0, 15.0, 30.0, 45.0)
"""When each part of the minute begins, in seconds."""
LENGTH = 64.0
"""The length of the whole, in seconds."""
WORDS = {15.0: "fifteen", 30.0: "thirty", 45.0: "forty-five"}

VALUES: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "colour": ("red", "green", "blue", "yellow"),
    "background": ("black", "white"),
}
"""The attributes that do not change, with their values; parts of those of the world of shapes."""
assert {*VALUES["colour"]} <= {*COLOURS}
assert {*VALUES["background"]} <= {*BACKGROUNDS}

Parts = tuple[str, str, str, str]


def follows(before: Sequence[str], after: str) -> bool:
    """Whether the object may do `after` next.

    It leaves the frame once at most, while it moves, and comes back as it moved before.
    """
    last = before[-1]
    if last == GONE:
        return after in (GONE, next(doing for doing in reversed(before) if doing != GONE))
    if after == GONE:
        return last != STILL and GONE not in before
    return True


def _stories() -> list[Parts]:
    """All stories: something happens in each; the object is there in the first and last part."""
    return [
        parts
        for parts in itertools.product(DOINGS, DOINGS, DOINGS, DOINGS)
        if GONE not in (parts[0], parts[-1])
        and len({*parts}) > 1
        and all(follows(parts[:i], parts[i]) for i in range(1, 4))
    ]


STORIES: tuple[Parts, ...] = tuple(_stories())


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of a prompt: the object, the background, and what happens."""

    shape: str
    colour: str
    background: str
    parts: Parts

    def __post_init__(self) -> None:
        for name, known in VALUES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"minute: {name} must be one of {known}, got {getattr(self, name)!r}"
                )
        if self.parts not in STORIES:
            raise ValueError(f"minute: {self.parts} is none of the {len(STORIES)} stories")

    def to_dict(self) -> dict[str, str]:
        """Attribute → value; a part's attribute is named by when it begins."""
        words = {name: getattr(self, name) for name in VALUES}
        return words | {part(start): doing for start, doing in zip(STARTS, self.parts, strict=True)}

    def order(self) -> tuple[str, ...]:
        """What the object does, in order, without when."""
        return collapsed(self.parts)


def part(start: float) -> str:
    """The name of the attribute of the part that begins at `start`."""
    return f"from {start:g} s"


def collapsed(doings: Sequence[str]) -> tuple[str, ...]:
    """Each doing once as long as it lasts."""
    return tuple(doing for doing, _ in itertools.groupby(doings))


def contents() -> list[Content]:
    """All contents, in the order of `VALUES` and `STORIES`."""
    return [
        Content(shape=shape, colour=colour, background=background, parts=parts)
        for shape, colour, background in itertools.product(*VALUES.values())
        for parts in STORIES
    ]


def held_out(content: Content) -> bool:
    """Whether a content is held out of training: about one in eleven.

    A linear rule on the numbers of the values, so every value, and every pair of values, is both
    trained and held out.
    """
    places = [known.index(getattr(content, name)) for name, known in VALUES.items()]
    places.append(STORIES.index(content.parts))
    return sum(w * p for w, p in zip(HELD_OUT_WEIGHTS, places, strict=True)) % 11 == 0


HELD_OUT_WEIGHTS = (1, 2, 4, 3)

HELD_OUT: tuple[Content, ...] = tuple(c for c in contents() if held_out(c))
TRAINED: tuple[Content, ...] = tuple(c for c in contents() if not held_out(c))

BEGIN = {ACROSS: "moves sideways", UPRIGHT: "moves up and down", STILL: "stays still"}
BECOME = {ACROSS: "moves sideways", UPRIGHT: "moves up and down", STILL: "stops", GONE: "leaves"}
TEMPLATES = (
    ("a {colour} {shape} on {background} {begin}{events}", ", {event} after {seconds} seconds"),
    ("{background} background, a {colour} {shape} {begin}{events}", "; at {seconds} it {event}"),
)
"""Per phrasing: the sentence, and the words of what happens next."""


def prompt(content: Content, phrasing: int) -> str:
    """Sentence number `phrasing`, modulo their number: the object, and what happens in order."""
    sentence, event = TEMPLATES[phrasing % len(TEMPLATES)]
    events = [
        event.format(event="comes back" if old == GONE else BECOME[new], seconds=WORDS[start])
        for (old, new), start in zip(itertools.pairwise(content.parts), STARTS[1:], strict=True)
        if new != old
    ]
    words = {name: getattr(content, name) for name in VALUES}
    return sentence.format(begin=BEGIN[content.parts[0]], events="".join(events), **words)


def heldout_prompts(n: int = 64) -> list[tuple[str, Content]]:
    """`n` held-out contents as (prompt, content): in half of them the object leaves and comes back.

    Both halves are evenly spread over the contents (the first is smaller if there are too few);
    phrasings take turns.

    Raises:
        ValueError: there are fewer than `n`.
    """
    leaving = [content for content in HELD_OUT if GONE in content.parts]
    others = [content for content in HELD_OUT if GONE not in content.parts]
    first = min(n // 2, len(leaving))
    if not 0 < n - first <= len(others):
        most = len(HELD_OUT)
        raise ValueError(f"held-out prompts: n must be from 1 to {most}, got {n}")
    chosen = [*_spread(leaving, first), *_spread(others, n - first)]
    return [(prompt(content, i), content) for i, content in enumerate(chosen)]


def _spread(contents: Sequence[Content], n: int) -> list[Content]:
    """`n` of them, evenly spread."""
    return [contents[i * len(contents) // n] for i in range(n)]
