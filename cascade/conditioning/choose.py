"""Chooses a way to prompt from the sources that a user gives, and reads them by that way."""

from collections.abc import Collection, Mapping
from typing import Any

from cascade.conditioning.prompt_files import Files, Prompt, without_bars
from cascade.conditioning.registry import Way, source_names, ways
from cascade.grid import Grid
from cascade.video import Fit, Media, as_media

#: Sources that are pictures or videos; those of `PAIRS` are two.
MEDIA = ("image", "last_image", "video", "mask")
PAIRS = ("connect",)


def way_named(name: str, who: str) -> Way:
    """The registry's entry for a way; `who` is the setting that names it.

    Raises:
        ValueError: the registry has no way of this name.
    """
    if name not in ways:
        raise ValueError(f"{who}{name}: unknown way to prompt; known: {', '.join(ways)}")
    return ways[name]


def choose(way: str | None, sources: Collection[str]) -> Way:
    """The named way, or else the first that takes exactly these sources.

    Raises:
        ValueError: the way is unknown, a source that it needs is missing, a source is given that it
            does not take, or no way takes these sources together.
    """
    found = set(sources)
    if way is None:
        for one in ways.values():
            if any(found == set(needed) for needed in one.needs):
                return one
        known = "; ".join(f"{name}: {_takes(one)}" for name, one in ways.items())
        raise ValueError(
            f"no way to prompt takes exactly {_listed(sorted(found))}. The ways take: {known}"
        )
    chosen = way_named(way, "way=")
    needed = max(chosen.needs, key=lambda one: (len(found & set(one)), -len(one)))
    if missing := [name for name in needed if name not in found]:
        raise ValueError(
            f"way={way} needs {_listed(missing)} ({chosen.description}; {_takes(chosen)})"
        )
    if extra := [name for name in source_names() if name in found - set(needed)]:
        raise ValueError(f"way={way} takes {_takes(chosen)}, not {_listed(extra)}")
    return chosen


def prompt(
    grid: Grid,
    *,
    stride: int = 1,
    way: str | None = None,
    share: float = 0.5,
    fit: Fit = "crop",
    **sources: Any,
) -> Prompt:
    """A user's pictures and videos as a prompt for a video on `grid`.

    The base generates every `stride`-th frame of the video. Sources have the names that the ways
    use; None means that a source is not given. Pictures and videos are files, or in memory (see
    `as_media`). `fit` is what becomes of another aspect ratio:
    "crop", the largest part at the centre, or "pad", the whole picture, and the video beside it is
    generated.

    Raises:
        ValueError: sources that no way takes together, or that cannot be read.
    """
    if unknown := [name for name in sources if name not in source_names()]:
        known = _listed(source_names())
        raise ValueError(
            f"no way to prompt takes {_listed(unknown)}; the known sources are {known}"
        )
    there = {name: value for name, value in sources.items() if value is not None}
    chosen = choose(way, there)
    files = Files(sources=_opened(there), grid=grid, stride=stride, share=share, fit=fit)
    return without_bars(chosen.read(files))


def _opened(sources: Mapping[str, Any]) -> dict[str, Any]:
    """The sources, with those in memory as frames; a pair `x` is named x/0 and x/1."""
    opened: dict[str, Any] = {}
    for name, value in sources.items():
        if name in PAIRS:
            opened |= {f"{name}/{place}": one for place, one in enumerate(_pair(value, name))}
        else:
            opened[name] = as_media(value, name) if name in MEDIA else value
    return opened


def _pair(value: Any, name: str) -> tuple[Media, Media]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name}: must be two videos, {name}=[a,b], got {value!r:.60}")
    return as_media(value[0], name), as_media(value[1], name)


def _listed(sources: Collection[str]) -> str:
    *most, last = (f"{name}=…" for name in sources)
    return f"{', '.join(most)} and {last}" if most else last


def _takes(way: Way) -> str:
    return " or ".join(_listed(names) if names else "no file" for names in way.needs)
