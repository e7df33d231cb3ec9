"""The table of a stage's speed."""

from typing import Any

from rich.console import Console
from rich.table import Table

ENDS = ("min", "max")


def milliseconds(seconds: float) -> str:
    """A time in milliseconds."""
    return f"{1e3 * seconds:.2f} ms"


def show(figures: dict[str, Any]) -> None:
    """Print the figures as short tables."""
    console = Console(width=100)
    console.print(table(f"speed of {figures['stage']} on {figures['device']}", lines(figures)))
    step = figures["divided_step_s"]
    parts = [(n, milliseconds(s), f"{s / step:.1%}") for n, s in figures["parts_s"].items()]
    console.print(table("parts of a step", parts))
    if figures["kernels"] is not None:
        kinds = [(kind, f"{share:.1%}", "") for kind, share in figures["kernels"]["kinds"].items()]
        console.print(table("kernels by kind", kinds))
        longest = figures["kernels"]["top"]
        rows = [(k["name"][:70], f"{k['share']:.1%}", f"{k['count']:g} a step") for k in longest]
        console.print(table("longest kernels", rows))


def table(title: str, rows: list[tuple[str, str, str]]) -> Table:
    """A table of three columns."""
    made = Table(title=title, show_header=False)
    made.add_column()
    made.add_column(justify="right")
    made.add_column()
    for row in rows:
        made.add_row(*row)
    return made


def lines(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The rows of the first table: a figure, its value and a note."""
    step, code = figures["step_s"], figures["compiled"]
    clips = f"{figures['clips_per_step']:g} of {', '.join(figures['shapes'][:3])}"
    rows = [
        ("parameters", f"{figures['parameters'] / 1e6:,.1f} M", figures["precision"]),
        ("clips a step", clips, ""),
        ("step", milliseconds(step["median"]), " to ".join(milliseconds(step[n]) for n in ENDS)),
        ("clips/s", f"{figures['clips_per_s']:.1f}", ""),
        (
            "share of peak",
            f"{figures['share_of_peak']:.1%}",
            f"{figures['tflop_per_s']:.3g} of {figures['peak_tflop_per_s']:.3g} TFLOP/s",
        ),
        ("peak memory", f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB", ""),
        ("first step", f"{figures['first_step_s']:.1f} s", ""),
    ]
    idle = figures["idle_share"]
    rows.append(
        ("idle", "–", "not measured: on a GPU alone, with bench.profiled")
        if idle is None
        else ("idle", f"{idle:.1%}", "of a step the GPU computes nothing")
    )
    rows.append(
        ("compiled blocks", "none", "")
        if code is None
        else (
            "compiled blocks",
            f"{code['graphs']} graphs",
            f"{code['seconds']:.1f} s, {code['breaks']} breaks",
        )
    )
    if "sample_s" in figures:
        rows.append(("sampling", f"{1e3 * figures['sample_s']:.0f} ms", "one video"))
    return rows
