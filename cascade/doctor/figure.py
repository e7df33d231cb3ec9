"""A figure of the plan: its value, its unit, and whether it is measured, counted or estimated."""

from dataclasses import dataclass
from typing import Any, Literal

How = Literal["measured", "counted", "estimated"]

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("", "k", "M", "G", "T", "P", "E", "Z")


@dataclass(frozen=True)
class Figure:
    """A value with its unit, and whether it was measured, counted or estimated; None is unknown.

    Units are "bytes", "s", "hours", "share", or a counted thing ("FLOPs", "parameters", "clips").
    `at_least` marks a lower bound.
    """

    value: float | str | None
    how: How
    unit: str = ""
    note: str = ""
    at_least: bool = False

    def plain(self) -> dict[str, Any]:
        """The figure as plain values for JSON."""
        return {"value": self.value, "unit": self.unit, "how": self.how, "note": self.note}

    @property
    def text(self) -> str:
        """The value and unit as text."""
        return "at least " * self.at_least + format_value(self.value, self.unit)


def format_value(value: float | str | None, unit: str) -> str:
    """A value and its unit as text, scaled to a readable unit."""
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
            return format_number(value)
    return f"{format_number(value)} {unit}"


def format_number(value: float) -> str:
    """Integers and large numbers with commas, others with four digits."""
    return f"{round(value):,}" if value == round(value) or abs(value) >= 1e4 else f"{value:.4g}"


def scaled(value: float, base: int, names: tuple[str, ...], gap: str) -> str:
    """A value in the largest unit in which it is at least one."""
    step = 0
    while abs(value) >= base and step + 1 < len(names):
        value, step = value / base, step + 1
    number = (
        f"{value:,.0f}" if value >= 100 or (step == 0 and value == int(value)) else f"{value:.3g}"
    )
    return f"{number}{gap}{names[step]}"


def duration(seconds: float) -> str:
    """Seconds in µs, ms, s, minutes, hours or days, by their size."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:,.3g} hours" if seconds < 1e6 else f"{seconds / 86400:,.0f} days"
