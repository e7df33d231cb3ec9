"""Charts as inline SVG: curves over steps, shares with their intervals, and histograms.

Colours come from the page's CSS classes (`s0`, `s1`, …), so they follow light and dark mode. Every
series also has a dash pattern of its own, and every chart a text description.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise

from cascade.report.html import Html, join, tag

Points = Sequence[tuple[float, float]]

WIDTH = 720
DASHES = ("", "7 4", "2 3", "10 3 2 3", "4 2", "1 4")
SERIES = 6
"""The number of colours in the style; further series repeat them."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) inside [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside [low, high]; over long ranges powers of ten alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [m * 10.0**p for p in powers for m in marks if low <= m * 10.0**p <= high]


def thin(points: Points, most: int = 300) -> Points:
    """At most `most` points, the means of equal intervals, so that long curves stay small files."""
    if len(points) <= most:
        return points
    bounds = [round(i * len(points) / most) for i in range(most + 1)]
    parts = [points[a:b] for a, b in pairwise(bounds)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def lines(
    series: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    marks: Sequence[float] = (),
) -> Html:
    """Curves in one chart; non-finite points, and with `log_y` non-positive ones, are left out.

    `marks` are positions along x, drawn as vertical lines.
    """
    kept = {
        name: thin([(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log_y)])
        for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return tag("p", "Nothing was recorded.", class_="empty")
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    frame = Frame(min(xs), max(xs), min(ys), max(ys), log_y)
    drawn = [*frame.grid(x_label, y_label)]
    for mark in marks:
        at = f"{frame.x(mark):.1f}"
        drawn.append(tag("line", x1=at, x2=at, y1=frame.top, y2=frame.bottom, class_="rule"))
    for i, points in enumerate(kept.values()):
        path = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
        dash = DASHES[i % len(DASHES)] or None
        style = f"line s{i % SERIES}"
        drawn.append(tag("path", d=path, class_=style, stroke_dasharray=dash))
        x, y = points[-1]
        drawn.append(
            tag("circle", cx=f"{frame.x(x):.1f}", cy=f"{frame.y(y):.1f}", r=3.5, class_=style)
        )
    ends = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in kept.items())
    return join(
        (
            legend({name: f"{points[-1][1]:.4g}" for name, points in kept.items()}),
            svg(drawn, Frame.height, f"{y_label} by {x_label}: {ends}"),
        )
    )


def intervals(rows: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Html:
    """Shares as dots with intervals: row → series → (share, low, high), each in [0, 1]."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    left, right, step, gap = 196.0, 560.0, 20.0, 14.0
    drawn: list[Html] = []
    top = 10.0
    for label, row in rows.items():
        drawn.append(tag("text", label, x=2, y=top + step / 2 + 4, class_="label"))
        for name, (share, low, high) in row.items():
            style, y = f"s{names.index(name) % SERIES}", top + step / 2
            a, b, c = (f"{left + (right - left) * v:.1f}" for v in (low, share, high))
            bounds = f"{100 * low:.1f} – {100 * high:.1f}"
            drawn += [
                tag("text", name, x=left - 14, y=y + 4, class_="faint end"),
                tag("line", x1=left, x2=right, y1=y, y2=y, class_="rule"),
                tag("line", x1=a, x2=c, y1=y, y2=y, class_=f"whisker {style}"),
                tag("circle", cx=b, cy=y, r=5, class_=f"dot {style}"),
                tag("text", percent(share), x=right + 58, y=y + 4, class_="value end"),
                tag("text", bounds, x=WIDTH, y=y + 4, class_="faint end"),
            ]
            top += step
        top += gap
    for v in (0, 0.25, 0.5, 0.75, 1):
        x = left + (right - left) * v
        drawn.insert(0, tag("line", x1=x, x2=x, y1=4, y2=top - 8, class_="grid"))
        drawn.append(tag("text", f"{100 * v:.0f} %", x=x, y=top + 8, class_="tick middle"))
    description = "; ".join(
        f"{label}, {name}: {percent(share)} ({percent(low)} to {percent(high)})"
        for label, row in rows.items()
        for name, (share, low, high) in row.items()
    )
    return svg(drawn, top + 16, description)


def histogram(
    values: Sequence[float],
    *,
    label: str,
    unit: str = "",
    bins: int = 24,
    marks: Mapping[str, float] | None = None,
) -> Html:
    """The counts of values in about `bins` bars between round numbers.

    `marks` are named values, such as a threshold, drawn as lines. Non-finite values are left out,
    and counted in the chart's description.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    marks = marks or {}
    if not finite:
        return tag("p", "Nothing was recorded.", class_="empty")
    span = [finite[0], finite[-1], *marks.values()]
    edges = _edges(min(span), max(span), bins)
    counts = [0] * (len(edges) - 1)
    for value in finite:
        counts[min(bisect_right(edges, value), len(counts)) - 1] += 1
    frame = Frame(edges[0], edges[-1], 0.0, float(max(counts)), False)
    drawn = frame.grid(f"{label}, {unit}" if unit else label, "count")
    for count, (a, b) in zip(counts, pairwise(edges), strict=True):
        x, y = frame.x(a), frame.y(count)
        size = {"width": f"{frame.x(b) - x - 1:.1f}", "height": f"{frame.bottom - y:.1f}"}
        title = tag("title", f"{a:.4g} to {b:.4g}: {count}")
        drawn.append(tag("rect", title, x=f"{x + 0.5:.1f}", y=f"{y:.1f}", class_="bar", **size))
    for i, value in enumerate(marks.values(), start=1):
        x, style, dash = frame.x(value), f"line s{i % SERIES}", DASHES[i % len(DASHES)] or None
        ends = {"x1": f"{x:.1f}", "x2": f"{x:.1f}", "y1": frame.top, "y2": frame.bottom}
        drawn.append(tag("line", **ends, class_=style, stroke_dasharray=dash))
    middle, lost = finite[len(finite) // 2], len(values) - len(finite)
    description = f"{label}: {len(finite)} values from {finite[0]:.4g} to {finite[-1]:.4g}"
    description += f", median {middle:.4g}" + (f", {lost} non-finite" if lost else "")
    description += "".join(f"; {name} at {value:.4g}" for name, value in marks.items())
    named = {name: f"{value:.4g} {unit}".strip() for name, value in marks.items()}
    heading = legend({f"median of {len(finite)}": f"{middle:.4g} {unit}".strip(), **named})
    return join((heading, svg(drawn, Frame.height, description)))


def _edges(low: float, high: float, bins: int) -> list[float]:
    """Equally spaced round numbers whose first and last enclose [low, high]."""
    if not high > low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    inner = ticks(low, high, bins)
    step = inner[1] - inner[0]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def percent(share: float) -> str:
    """A share in percent, with one decimal if it is not an integer."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def legend(series: Mapping[str, str]) -> Html:
    """The series' marks, names and last values."""
    items = []
    for i, (name, value) in enumerate(series.items()):
        dash = DASHES[i % len(DASHES)] or None
        stroke = tag(
            "line", x1=1, x2=25, y1=6, y2=6, class_=f"line s{i % SERIES}", stroke_dasharray=dash
        )
        mark = tag("svg", stroke, width=26, height=12, aria_hidden="true")
        items.append(tag("li", mark, name, tag("b", value) if value else ""))
    return tag("ul", *items, class_="legend")


def svg(drawn: Sequence[Html], height: float, description: str) -> Html:
    """An SVG that scales with the page, with a description for screen readers."""
    return tag(
        "svg",
        *drawn,
        class_="chart",
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_label=description,
    )


class Frame:
    """The axes of a chart of curves: a map from values to positions in the SVG."""

    height = 300
    left, right, top, bottom = 64, WIDTH - 16, 14, 252

    def __init__(self, x0: float, x1: float, y0: float, y1: float, log_y: bool) -> None:
        self.log_y = log_y
        if log_y:
            self.y_ticks = log_ticks(y0 / 1.1, y1 * 1.1)
            y0, y1 = y0 / 1.1, y1 * 1.1
        else:
            pad = 0.06 * (y1 - y0) or abs(y1) * 0.1 or 1.0
            y0, y1 = (0.0 if 0 <= y0 < 0.4 * y1 else y0 - pad), y1 + pad
            self.y_ticks = ticks(y0, y1)
        self.x0, self.x1, self.y0, self.y1 = x0, x1, self._map(y0), self._map(y1)
        self.x_ticks = ticks(x0, x1, 7)

    def _map(self, y: float) -> float:
        return math.log10(y) if self.log_y else y

    def x(self, value: float) -> float:
        """The horizontal position of a value."""
        share = (value - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        """The vertical position of a value."""
        share = (self._map(value) - self.y0) / (self.y1 - self.y0)
        return self.bottom - share * (self.bottom - self.top)

    def grid(self, x_label: str, y_label: str) -> list[Html]:
        """Grid lines, ticks and the axes' names."""
        drawn = []
        for value in self.y_ticks:
            y = f"{self.y(value):.1f}"
            drawn.append(tag("line", x1=self.left, x2=self.right, y1=y, y2=y, class_="grid"))
            drawn.append(
                tag("text", f"{value:g}", x=self.left - 8, y=self.y(value) + 4, class_="tick end")
            )
        for value in self.x_ticks:
            x = f"{self.x(value):.1f}"
            drawn.append(tag("text", f"{value:,g}", x=x, y=self.bottom + 20, class_="tick middle"))
        middle = (self.top + self.bottom) / 2
        turned = f"rotate(-90 14 {middle:g})"
        return [
            *drawn,
            tag("line", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom, class_="axis"),
            tag("text", x_label, x=self.right, y=self.bottom + 40, class_="axis-name end"),
            tag("text", y_label, x=14, y=middle, class_="axis-name middle", transform=turned),
        ]
