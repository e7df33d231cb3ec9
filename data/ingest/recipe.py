"""The recipe of `make shards`: all settings that determine the bytes of the shards."""

import dataclasses
from dataclasses import dataclass
from typing import Any

PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow"),
)


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Shot detection: the threshold of ContentDetector (None: no cuts), and the minimum length."""

    threshold: float | None
    min_s: float

    def __post_init__(self) -> None:
        _positive("shots", threshold=self.threshold, min_s=self.min_s)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Clip durations in seconds: longer shots are split evenly, shorter ones dropped."""

    min_s: float
    max_s: float

    def __post_init__(self) -> None:
        _positive("windows", min_s=self.min_s, max_s=self.max_s)
        if self.max_s < 2 * self.min_s:
            raise ValueError(
                f"windows: max_s must be at least twice min_s, so that shots can be split evenly, "
                f"got max_s {self.max_s:g} and min_s {self.min_s:g}; raise max_s or lower min_s"
            )


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """H.264: key frames at most `gop_s` apart, a short side of at most `short_side` pixels.

    With `keep`, a suitable video with key frames at most `keep_gop_s` apart is copied.
    `jpeg_quality` is for images that must be re-encoded.
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
            raise ValueError(f"encoding.crf must be from 0 (lossless) to 51, got {self.crf}")
        if self.preset not in PRESETS:
            raise ValueError(
                f"encoding.preset must be one of {', '.join(PRESETS)}; got {self.preset!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How scores are measured: sampled frames per second, and short sides in pixels.

    Text is detected at a short side of `text_side`, which is the slowest measure; None: not at all.
    `hash_frames` is the number of frames per clip that are hashed.
    """

    fps: float
    side: int
    text_side: int | None
    hash_frames: int

    def __post_init__(self) -> None:
        _positive("measures", fps=self.fps, side=self.side, text_side=self.text_side)
        _positive("measures", hash_frames=self.hash_frames)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Thresholds beyond which a clip is dropped; None disables a filter.

    `min_short_side` is in pixels of the upright source. `black`, `still` and `text` are maximum
    shares: of black frames, of moments without change, and of area that is text. `motion` is a
    minimum in heights per second. Two clips are duplicates if their perceptual hashes differ in at
    most `duplicate` of 64 bits, on average over the hashed frames.
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
    """The largest number of samples and of bytes per shard.

    The names of keys and shards start with `prefix`, by default the name of the source folder.
    """

    prefix: str | None
    samples: int
    bytes: int

    def __post_init__(self) -> None:
        _positive("packing", samples=self.samples, bytes=self.bytes)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything besides the sources that determines the bytes of the shards."""

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
    """The differences between the records of two recipes, one line each."""
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
