"""A figure and how it is known."""

from dataclasses import dataclass
from typing import Any, Literal

How = Literal["measured", "counted", "estimated"]

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("", "k", "M", "G", "T", "P", "E", "Z")


@dataclass(frozen=True)
class Figure:
    """A value, its unit, and whether it was measured, counted or estimated; None is not known.

    Units are "bytes", "s", "share", and what is counted ("FLOPs", "parameters", "clips", …).
    """

    value: float | str | None
    how: How
    unit: str = ""
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"value": self.value, "unit": self.unit, "how": self.how, "note": self.note}

    @property
    def text(self) -> str:
        """For reading."""
        return said(self.value, self.unit)


def said(value: float | str | None, unit: str) -> str:
    """A value in its unit, for reading."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    match unit:
        case "bytes":
            return scaled(value, 1024, _BINARY, " ")
        case "FLOPs" | "FLOP/s":
            return scaled(value, 1000, _DECIMAL, " ") + unit
        case "parameters":
            return scaled(value, 1000, _DECIMAL, " ").strip()
        case "share":
            return f"{100 * value:.3g} %"
        case "s":
            return duration(value)
        case "hours":
            return duration(3600 * value)
        case "":
            return number_of(value)
    return f"{number_of(value)} {unit}"


def number_of(value: float) -> str:
    """Counts whole with commas, the rest with four digits."""
    return f"{round(value):,}" if value == round(value) or abs(value) >= 1e4 else f"{value:.4g}"


def scaled(value: float, base: int, names: tuple[str, ...], gap: str) -> str:
    """A value in the largest unit that leaves a number of at least one."""
    step = 0
    while abs(value) >= base and step + 1 < len(names):
        value, step = value / base, step + 1
    number = (
        f"{value:,.0f}" if value >= 100 or (step == 0 and value == int(value)) else f"{value:.3g}"
    )
    return f"{number}{gap}{names[step]}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:,.3g} hours" if seconds < 1e6 else f"{seconds / 86400:,.0f} days"
