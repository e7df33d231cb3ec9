"""Parts of a page's tables: cells with a tone, and films."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from cascade.report.html import Html, tag, text
from cascade.video import write_mp4, write_png

Tone = Literal["good", "bad", "plain"]
MARKS: dict[Tone, str] = {"good": "✓ ", "bad": "✗ ", "plain": ""}

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp"})


@dataclass(frozen=True)
class Cell:
    """A value marked as good or bad, by colour and by a symbol."""

    value: object
    tone: Tone = "plain"

    def html(self) -> Html:
        """The mark and the value."""
        return tag("span", MARKS[self.tone], self.value, class_=f"tone {self.tone}")


@dataclass(frozen=True)
class Film:
    """A video to show, with a note below it.

    `video` is a file that browsers play (H.264 as yuv420p, or an image), or pixels in [-1, 1] at
    `fps`; one frame of pixels is an image.
    """

    video: Path | Float[Tensor, "3 f h w"]
    fps: float = 8.0
    note: object = ""

    def data(self, size: int) -> tuple[bytes, str]:
        """The file's bytes and suffix; pixels are enlarged by an integer factor to about `size`.

        Otherwise yuv420p would average the colours of neighbouring pixels.
        """
        if isinstance(self.video, Path):
            return self.video.read_bytes(), self.video.suffix.lower()
        video = self.video.detach().float().cpu()
        factor = max(1, round(size / max(video.shape[-2:])))
        video = video.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)
        still = video.shape[1] == 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("film.png" if still else "film.mp4")
            if still:
                write_png(path, video[:, 0])
            else:
                write_mp4(path, video, self.fps)
            return path.read_bytes(), path.suffix


def cell(value: object) -> Html:
    """A cell's content: a `Cell` with its tone, anything else as text."""
    return value.html() if isinstance(value, Cell) else text(value)


def numeric(values: Iterable[object]) -> bool:
    """Whether all values are numbers or None, and at least one is a number."""
    inner = [value.value if isinstance(value, Cell) else value for value in values]
    known = [value for value in inner if value is not None]
    return bool(known) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in known
    )


def datum(value: object) -> Html:
    """A table cell; numbers are right-aligned."""
    return tag("td", cell(value), class_="number" if numeric([value]) else None)


def scrolled(table: Html, name: str) -> Html:
    """A table with its own scroll bar in a narrow window, reachable by keyboard."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=name)
