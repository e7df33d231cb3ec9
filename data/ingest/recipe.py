"""All that decides which bytes come out of a source: the thresholds and the settings, in YAML."""

import dataclasses
from dataclasses import dataclass
from typing import Any

PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow"),
)


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Where a video is cut: ContentDetector's threshold (None: nowhere) and least length."""

    threshold: float | None
    min_s: float

    def __post_init__(self) -> None:
        _positive("shots", threshold=self.threshold, min_s=self.min_s)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How long a clip is, in seconds: a longer shot is split evenly, a shorter one dropped."""

    min_s: float
    max_s: float

    def __post_init__(self) -> None:
        _positive("windows", min_s=self.min_s, max_s=self.max_s)
        if self.max_s < 2 * self.min_s:
            raise ValueError(
                f"windows: even splits need max_s of at least twice min_s, got max_s "
                f"{self.max_s:g} and min_s {self.min_s:g}; raise the one or lower the other"
            )


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """H.264 with key frames at most `gop_s` apart, the short side at most `short_side` pixels.

    With `keep`, a video that is already so, up to `keep_gop_s`, keeps its bytes. `jpeg_quality` is
    for images that must be written anew.
    """

    short_side: int | None
    max_fps: float | None
    gop_s: float
    crf: int
    preset: str
    keep: bool
    keep_gop_s: float
    jpeg_quality: int

    def __post_init__(self) -> None:
        _positive("encoding", short_side=self.short_side, max_fps=self.max_fps, gop_s=self.gop_s)
        _positive("encoding", keep_gop_s=self.keep_gop_s, jpeg_quality=self.jpeg_quality)
        if self.short_side is not None and self.short_side % 2:
            raise ValueError(f"encoding.short_side must be even for 4:2:0, got {self.short_side}")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"encoding.crf is from 0 (lossless) to 51, got {self.crf}")
        if self.preset not in PRESETS:
            raise ValueError(f"encoding.preset is one of {', '.join(PRESETS)}; got {self.preset!r}")


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How the scores are measured: frames per second looked at, and short sides in pixels.

    Text is looked for at `text_side`, the costliest of the measures; None leaves it out.
    """

    fps: float
    side: int
    text_side: int | None
    looks: int

    def __post_init__(self) -> None:
        _positive("measures", fps=self.fps, side=self.side, text_side=self.text_side)
        _positive("measures", looks=self.looks)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The thresholds beyond which a clip is dropped; None switches one off.

    `min_short_side` is in pixels, of the source as shown. `black`, `still` and `text` are shares:
    of frames that are black, of moments in which nothing changes, of the area that is text.
    `motion` is in heights per second. `duplicate` is how many of 64 bits the perceptual hashes of
    two clips may differ by, on average over the frames looked at.
    """

    min_short_side: int | None
    black: float | None
    still: float | None
    motion: float | None
    text: float | None
    duplicate: float | None

    def __post_init__(self) -> None:
        _positive("filters", **dataclasses.asdict(self), zero=True)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A shard is full at so many samples, or before it would pass so many bytes of them.

    Keys and shards are named with `prefix`, by default after what they were made from.
    """

    prefix: str | None
    samples: int
    bytes: int

    def __post_init__(self) -> None:
        _positive("packing", samples=self.samples, bytes=self.bytes)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the bytes of the shards depend on, besides the sources."""

    shots: Shots
    windows: Windows
    encoding: Encoding
    measures: Measures
    filters: Filters
    packing: Packing

    def __post_init__(self) -> None:
        if self.filters.text is not None and self.measures.text_side is None:
            raise ValueError(
                f"filters.text is {self.filters.text:g}, but measures.text_side is null, so text "
                "is not measured; set both or neither"
            )

    def record(self) -> dict[str, Any]:
        """The recipe as JSON."""
        return dataclasses.asdict(self)


def difference(old: dict[str, Any], new: dict[str, Any], name: str = "") -> list[str]:
    """What was changed from one recipe's record to another's, a line each."""
    lines = []
    for key in sorted({*old, *new}):
        a, b, at = old.get(key), new.get(key), f"{name}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            lines += difference(a, b, f"{at}.")
        elif a != b:
            lines.append(f"{at} was {a!r}, now {b!r}")
    return lines


def _positive(section: str, zero: bool = False, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and (value < 0 or (value == 0 and not zero)):
            limit = "at least 0" if zero else "more than 0"
            raise ValueError(f"{section}.{name} must be {limit} (or null), got {value}")
