"""What `ways.py` shows: tables in Markdown, and pictures of the videos."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cascade.video import to_uint8

Figures = dict[str, Any]


def tables(ways: Figures) -> str:
    """One table per kind of figure, of the ways that were measured."""
    parts = (_given(ways), _motion(ways), _seams(ways), _restyle(ways))
    return "\n\n".join(part for part in parts if part)


def write_sheet(folder: Path | None, name: str, videos: Sequence[Tensor], rows: int = 4) -> None:
    """A picture of some cases: one line per video, frame by frame."""
    if folder is None:
        return
    every = max(len(videos[0]) // rows, 1)
    chosen = [
        one for group in zip(*(video[::every] for video in videos), strict=True) for one in group
    ]
    lines = [torch.cat([*video.permute(1, 0, 2, 3)], dim=2) for video in chosen]
    pixels = to_uint8(torch.cat(lines, dim=1)).permute(1, 2, 0).repeat_interleave(2, 0)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.repeat_interleave(2, 1).numpy()).save(folder / f"{name}.png")


def _given(ways: Figures) -> str:
    """Median PSNR with and without the condition, given pixels and prompts followed."""
    rows = []
    for way, found in ways.items():
        cells = []
        for stage in found.get("x̂", {}).values():
            for place in ("given", "beside"):
                pair = stage.get(place)
                cells.append(f"{pair['with'][1]:.1f} / {pair['without'][1]:.1f}" if pair else "")
        change = found.get("change of a given pixel /255")
        if "prompts followed" in found:
            share = _share(found["prompts followed"]["all"])
            rows.append((way, *(cells or [""] * 6), "" if change is None else f"{change:g}", share))
    pairs = itertools.product(("base", "tsr1", "ssr1"), ("given", "free"))
    stages = [", ".join(pair) for pair in pairs]
    return _table(["way", *stages, "change of a given pixel", "all attributes right, %"], rows)


def _motion(ways: Figures) -> str:
    names = ("joint", "inside", "of the clips themselves")
    rows = [
        (way, *(_spread(found["motion"][name]) for name in names))
        for way, found in ways.items()
        if "motion" in found
    ]
    return _table(["error of velocity, pixels per frame", *names], rows)


def _seams(ways: Figures) -> str:
    names = ("seam", "median step", "largest step", "seam / median step")
    rows = [
        (f"{way}, {where}", *(_spread(one[name]) for name in names))
        for way, found in ways.items()
        for where, one in {**found.get("seam", {}), **found.get("joints", {})}.items()
    ]
    return _table(["change of a pixel in levels", *names], rows)


def _restyle(ways: Figures) -> str:
    rows = [
        (
            strength,
            one["RMS distance to the input"],
            f"{one['to the input /255']:.3g}",
            f"{one['to text alone /255']:.3g}",
            _share(one["prompts followed"]["all"]),
        )
        for strength, one in ways.get("restyle", {}).get("strength", {}).items()
    ]
    columns = ("strength", "RMS to the input", "largest", "largest to text alone", "right, %")
    return _table(columns, rows)


def _share(values: Sequence[float]) -> str:
    share, low, high = values
    return f"{share:.0f} ({low:.0f}–{high:.0f})"


def _spread(values: Sequence[float]) -> str:
    low, median, high = values
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Empty without rows."""
    lines = [" | ".join(map(str, row)) for row in rows]
    head = [" | ".join(columns), "|".join("---" for _ in columns)]
    return "\n".join(f"| {line} |" for line in (*head, *lines)) if lines else ""
