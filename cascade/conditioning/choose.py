"""Which way to prompt a user means by what is given, and what that way makes of it."""

from collections.abc import Collection
from typing import Any

from cascade.conditioning.prompt_files import Files, Prompt
from cascade.conditioning.registry import Way, source_names, ways
from cascade.grid import Grid


def way_named(name: str, who: str) -> Way:
    """The entry of a way that `who` names.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ways:
        raise ValueError(f"{who}{name}: no such way to prompt; there are {', '.join(ways)}")
    return ways[name]


def choose(way: str | None, sources: Collection[str]) -> Way:
    """The way named, or the first that takes exactly these sources.

    Raises:
        ValueError: no such way, a source that the way needs is missing, one that it does not take
            is there, or no way takes these together.
    """
    found = set(sources)
    if way is None:
        for one in ways.values():
            if any(found == set(needed) for needed in one.needs):
                return one
        known = "; ".join(f"{name}: {_takes(one)}" for name, one in ways.items())
        raise ValueError(
            f"no way to prompt takes {_listed(sorted(found))} and no more. The ways take: {known}"
        )
    chosen = way_named(way, "way=")
    needed = max(chosen.needs, key=lambda one: (len(found & set(one)), -len(one)))
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"way={way} needs {_listed(missing)} ({chosen.says}; {_takes(chosen)})")
    if extra := [name for name in source_names() if name in found - set(needed)]:
        raise ValueError(f"way={way} takes {_takes(chosen)}, not {_listed(extra)}")
    return chosen


def prompt(
    grid: Grid, *, stride: int = 1, way: str | None = None, share: float = 0.5, **sources: Any
) -> Prompt:
    """What a user's files ask for, of a video on `grid`; the base makes every `stride`-th frame.

    Sources are named as the ways name what they need, and None is as good as left out.

    Raises:
        ValueError: sources that do not go together or cannot be read.
    """
    if unknown := [name for name in sources if name not in source_names()]:
        known = _listed(source_names())
        raise ValueError(f"no way to prompt takes {_listed(unknown)}; there are {known}")
    there = {name: value for name, value in sources.items() if value is not None}
    chosen = choose(way, there)
    return chosen.read(Files(sources=there, grid=grid, stride=stride, share=share))


def _listed(sources: Collection[str]) -> str:
    *most, last = (f"{name}=…" for name in sources)
    return f"{', '.join(most)} and {last}" if most else last


def _takes(way: Way) -> str:
    return " or ".join(_listed(names) if names else "no file" for names in way.needs)
