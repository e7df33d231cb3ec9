"""The registry of ways to prompt: everything that Cascade knows about a way is its entry in `ways`.

Training shares, the command line, Python and the diagnostics read it. In training a way draws a
mask, and the clip's own pixels are given under it; at sampling it places the frames of a user's
files by the same rules. So sampling gives frames only where training did.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from cascade.conditioning import give
from cascade.conditioning.placement import Placement
from cascade.conditioning.prompt_files import Files, Prompt

Mask = Bool[np.ndarray, "f h w"]
"""True at a clip's given pixels; an axis may have size 1 if the mask is constant along it."""
Draw = Callable[[Placement, tuple[int, int], np.random.Generator], Mask]
"""A function that draws a mask, from the clip's frames, its (height, width) and a generator."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to prompt."""

    name: str
    description: str
    needs: tuple[tuple[str, ...], ...]
    """The sets of sources that it takes from a user; a user gives exactly one of the sets."""
    read: Callable[[Files], Prompt]
    draw: Draw | None
    """How training draws the given pixels of a clip; None for a way that is not trained."""
    min_frames: int = 1
    """The fewest frames, counted up to the last given one, that leave one to generate."""
    closes: bool = False
    """Whether given frames close the video, so that they begin at a time of the base."""
    gives_frames: bool = True
    """Whether any pixel is given."""

    def suits(self, placement: Placement) -> bool:
        """Whether clips of this length can be trained with it."""
        frames = placement.closing(1).stop if self.closes else placement.frames
        return self.draw is not None and frames >= self.min_frames


def _places(placement: Placement, places: Iterable[int]) -> Mask:
    mask = np.zeros((placement.frames, 1, 1), dtype=np.bool_)
    mask[list(places)] = True
    return mask


def _length(most: int, rng: np.random.Generator) -> int:
    return int(rng.integers(1, max(most, 1), endpoint=True))


def _draw_forward(placement: Placement, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    return _places(placement, placement.opening(_length(placement.frames // 2, rng)))


def _draw_backward(placement: Placement, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    return _places(placement, placement.closing(_length(placement.max_closing, rng)))


def _draw_ends(placement: Placement, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    known = _length(placement.max_ends, rng)
    return _places(placement, [*placement.opening(known), *placement.closing(known)])


def _draw_fill_in(placement: Placement, _: tuple[int, int], rng: np.random.Generator) -> Mask:
    """One frame at a time of the base, and other frames anywhere."""
    known = _length(placement.frames // 2, rng)
    one = int(rng.integers(0, -(-placement.frames // placement.stride))) * placement.stride
    others = rng.permutation(np.delete(np.arange(placement.frames), one))
    return _places(placement, [one, *others[: known - 1].tolist()])


def _draw_region(_: Placement, size: tuple[int, int], rng: np.random.Generator) -> Mask:
    """A box of a quarter to three quarters of each side; it or the rest is given."""
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
    before = files.tail("video", files.placement.ended(files.known(files.grid.frames - 1)))
    return Prompt(given=give.extend_forward(before, files.grid.frames))


def _read_backward(files: Files) -> Prompt:
    frames, stride = files.grid.frames, files.stride
    known = files.known(max(1, frames - stride))
    after = (
        files.image("last_image") if "last_image" in files.sources else files.head("video", known)
    )
    return Prompt(given=give.extend_backward(after, frames, stride=stride))


def _read_first_last(files: Files) -> Prompt:
    first, last = files.image("image"), files.image("last_image")
    return Prompt(given=give.first_last(first, last, files.grid.frames, stride=files.stride))


def _read_ends(one: str, other: str) -> Callable[[Files], Prompt]:
    def read(files: Files) -> Prompt:
        known = files.placement.ended(files.known(files.placement.max_ends, ends=2))
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


# If several ways take the same sources, the first is chosen unless the user names another.
ways: dict[str, Way] = {
    way.name: way
    for way in (
        Way(
            name="text",
            description="a text prompt alone",
            needs=((),),
            read=lambda _: Prompt(),
            draw=lambda *_: np.zeros((1, 1, 1), dtype=np.bool_),
            gives_frames=False,
        ),
        Way(
            name="image",
            description="an image to animate: the first frame",
            needs=(("image",),),
            read=lambda files: Prompt(given=give.image(files.image("image"), files.grid.frames)),
            draw=lambda placement, *_: _places(placement, placement.opening(1)),
            min_frames=2,
        ),
        Way(
            name="first_last",
            description="two images: the first and the last frame",
            needs=(("image", "last_image"),),
            read=_read_first_last,
            draw=lambda placement, *_: _places(
                placement, [*placement.opening(1), *placement.closing(1)]
            ),
            min_frames=3,
            closes=True,
        ),
        Way(
            name="extend_forward",
            description="a video to continue",
            needs=(("video",),),
            read=_read_forward,
            draw=_draw_forward,
            min_frames=2,
        ),
        Way(
            name="extend_backward",
            description="a video, or a last image, to generate what comes before it",
            needs=(("video",), ("last_image",)),
            read=_read_backward,
            draw=_draw_backward,
            min_frames=2,
            closes=True,
        ),
        Way(
            name="fill_in",
            description="single frames of a video; the frames between them are generated",
            needs=(("video", "indices"),),
            read=_read_fill_in,
            draw=_draw_fill_in,
            min_frames=2,
        ),
        Way(
            name="loop",
            description="a video to close into a loop: from its end back to its start",
            needs=(("video",),),
            read=_read_ends("video", "video"),
            draw=_draw_ends,
            min_frames=3,
            closes=True,
        ),
        Way(
            name="connect",
            description="two videos to connect: from the end of one to the start of the other",
            needs=(("connect",),),
            read=_read_ends("connect/0", "connect/1"),
            draw=_draw_ends,
            min_frames=3,
            closes=True,
        ),
        Way(
            name="region",
            description="a region of a video to keep; the rest is regenerated",
            needs=(("video", "mask"),),
            read=_read_region,
            draw=_draw_region,
        ),
        Way(
            name="restyle",
            description="a video to restyle: noised to time `strength`, then denoised (SDEdit)",
            needs=(("video", "strength"),),
            read=_read_restyle,
            draw=None,
            gives_frames=False,
        ),
    )
}


def source_names() -> tuple[str, ...]:
    """The names of all sources that the ways take from a user."""
    needs = (names for way in ways.values() for names in way.needs)
    return tuple(dict.fromkeys(name for names in needs for name in names))
