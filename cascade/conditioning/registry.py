"""The registry of ways to prompt: all that Cascade knows of a way is its entry in `ways`.

Training shares, the command line, Python and the diagnostics read it. In training a way draws a
mask and the clip fills it; for a user's files it puts their frames at places chosen by the same
rules, so what is asked at sampling is what was practised.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from cascade.conditioning import give
from cascade.conditioning.prompt_files import Files, Prompt
from cascade.conditioning.room import Room

Mask = Bool[np.ndarray, "f h w"]
"""What is given of a clip; a side may be 1 where the mask is the same all along it."""
Draw = Callable[[Room, tuple[int, int], np.random.Generator], Mask]
"""A mask from the clip's frames, its (height, width) and random numbers."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to prompt."""

    name: str
    says: str
    needs: tuple[tuple[str, ...], ...]
    """The sources that it takes from a user; where there are several sets, any one of them."""
    read: Callable[[Files], Prompt]
    draw: Draw | None
    """How training slices a clip; none for a way that needs no practice."""
    fewest: int = 1
    """Frames of a clip, up to the last one given, with which one is left to make."""
    closes: bool = False
    """Whether what is given closes the video, and so begins at a time of the base."""
    fixes: bool = True
    """Whether anything is given at all."""

    def suits(self, room: Room) -> bool:
        """Whether clips of so many frames can practise it."""
        frames = room.closing(1).stop if self.closes else room.frames
        return self.draw is not None and frames >= self.fewest


def _places(room: Room, places: Iterable[int]) -> Mask:
    mask = np.zeros((room.frames, 1, 1), dtype=np.bool_)
    mask[list(places)] = True
    return mask


def _length(most: int, rng: np.random.Generator) -> int:
    return int(rng.integers(1, max(most, 1), endpoint=True))


def _draw_forward(room: Room, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    return _places(room, room.opening(_length(room.frames // 2, rng)))


def _draw_backward(room: Room, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    return _places(room, room.closing(_length(room.most_closing, rng)))


def _draw_ends(room: Room, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    known = _length(room.most_ends, rng)
    return _places(room, [*room.opening(known), *room.closing(known)])


def _draw_fill_in(room: Room, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    """One frame at a time of the base, and others anywhere."""
    known = _length(room.frames // 2, rng)
    one = int(rng.integers(0, -(-room.frames // room.stride))) * room.stride
    others = rng.permutation(np.delete(np.arange(room.frames), one))
    return _places(room, [one, *others[: known - 1].tolist()])


def _draw_region(_: Room, size: tuple[int, int], rng: np.random.Generator) -> Mask:
    """A box of a quarter to three quarters of each side, kept or painted anew."""
    mask = np.zeros((1, *size), dtype=np.bool_)
    rows, columns = (_span(side, rng) for side in size)
    mask[:, rows, columns] = True
    return ~mask if rng.random() < 0.5 else mask


def _span(size: int, rng: np.random.Generator) -> slice:
    share, place = rng.random(2).tolist()
    length = min(max(round(size * (0.25 + 0.5 * share)), 1), size - 1) or 1
    start = round((size - length) * place)
    return slice(start, start + length)


def _read_forward(files: Files) -> Prompt:
    before = files.tail("video", files.known(files.grid.frames - 1))
    return Prompt(given=give.extend_forward(before, files.grid.frames))


def _read_backward(files: Files) -> Prompt:
    frames, stride = files.grid.frames, files.stride
    known = files.known(max(1, frames - stride))
    after = files.picture("last") if "last" in files.sources else files.head("video", known)
    return Prompt(given=give.extend_backward(after, frames, stride=stride))


def _read_first_last(files: Files) -> Prompt:
    first, last = files.picture("image"), files.picture("last")
    return Prompt(given=give.first_last(first, last, files.grid.frames, stride=files.stride))


def _read_ends(one: str, other: str) -> Callable[[Files], Prompt]:
    def read(files: Files) -> Prompt:
        known = files.known(files.room.most_ends, ends=2)
        tail, head = files.tail(one, known), files.head(other, known)
        given = give.connect(tail, head, files.grid.frames, known, stride=files.stride)
        return Prompt(given=given)

    return read


def _read_fill_in(files: Files) -> Prompt:
    places = files.indices("indices")
    return Prompt(given=give.fill_in(files.at("video", places), places, files.grid.frames))


def _read_region(files: Files) -> Prompt:
    mask = files.area("mask", "video")
    return Prompt(given=give.region(files.head("video", files.grid.frames), mask))


def _read_restyle(files: Files) -> Prompt:
    strength = files.fraction("strength")
    return Prompt(start=files.head("video", files.grid.frames), strength=strength)


# Where several ways take the same sources, the first is the one meant.
ways: dict[str, Way] = {
    way.name: way
    for way in (
        Way(
            name="text",
            says="nothing is given but the text",
            needs=((),),
            read=lambda _: Prompt(),
            draw=lambda *_: np.zeros((1, 1, 1), dtype=np.bool_),
            fixes=False,
        ),
        Way(
            name="image",
            says="a picture to animate: the first frame",
            needs=(("image",),),
            read=lambda files: Prompt(given=give.image(files.picture("image"), files.grid.frames)),
            draw=lambda room, *_: _places(room, room.opening(1)),
            fewest=2,
        ),
        Way(
            name="first_last",
            says="two pictures to move between",
            needs=(("image", "last"),),
            read=_read_first_last,
            draw=lambda room, *_: _places(room, [*room.opening(1), *room.closing(1)]),
            fewest=3,
            closes=True,
        ),
        Way(
            name="extend_forward",
            says="a video to go on from",
            needs=(("video",),),
            read=_read_forward,
            draw=_draw_forward,
            fewest=2,
        ),
        Way(
            name="extend_backward",
            says="a video or a last picture to lead up to",
            needs=(("video",), ("last",)),
            read=_read_backward,
            draw=_draw_backward,
            fewest=2,
            closes=True,
        ),
        Way(
            name="fill_in",
            says="single frames of a video, between which the rest is filled in",
            needs=(("video", "indices"),),
            read=_read_fill_in,
            draw=_draw_fill_in,
            fewest=2,
        ),
        Way(
            name="loop",
            says="a video to lead from its end back to its start",
            needs=(("video",),),
            read=_read_ends("video", "video"),
            draw=_draw_ends,
            fewest=3,
            closes=True,
        ),
        Way(
            name="connect",
            says="two videos to lead from one to the other",
            needs=(("video", "to"),),
            read=_read_ends("video", "to"),
            draw=_draw_ends,
            fewest=3,
            closes=True,
        ),
        Way(
            name="region",
            says="the part of a video to keep: the rest is painted anew",
            needs=(("video", "mask"),),
            read=_read_region,
            draw=_draw_region,
        ),
        Way(
            name="restyle",
            says="a video to make again (SDEdit, 2108.01073): noise takes `strength` of it away",
            needs=(("video", "strength"),),
            read=_read_restyle,
            draw=None,
            fixes=False,
        ),
    )
}


def source_names() -> tuple[str, ...]:
    """What the ways take from a user, by the names under which it is given."""
    needs = (names for way in ways.values() for names in way.needs)
    return tuple(dict.fromkeys(name for names in needs for name in names))
