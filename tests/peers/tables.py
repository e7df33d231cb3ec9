"""The results of a comparison as tables."""

from typing import Any

from rich.table import Table


def speed_table(found: dict[str, Any]) -> Table:
    """Speed and cost: a row per workload and system."""
    table = Table(title="Training, 8 frames: whole steps at the best batch size; median [min–max]")
    for head in (
        "task",
        "system",
        "parameters",
        "batch",
        "clips/s",
        "GFLOP/clip",
        "cores",
        "ratio",
    ):
        _column(table, head)
    for workload, content in found.items():
        for first, (name, one) in zip((True, False), content["sides"].items(), strict=True):
            ratio = bracket(content["times_faster"]) + "×" if first else ""
            table.add_row(
                *(workload, name, f"{one['parameters']:,}", str(one["batch"])),
                *(bracket(one["clips_per_s"]), f"{one['flops_per_clip'] / 1e9:.2f}"),
                *(f"{one['cores']['median']:.2f}", ratio),
            )
    return table


def quality_table(found: dict[str, Any]) -> Table:
    """Shares of right held-out prompts: a row per system and sampling setting."""
    runs = found["runs"]
    names = list(next(iter(runs.values()))["shown"][0]["shares"])
    table = Table(title="Held-out prompts right after equal training time, % [Wilson, 95 %]")
    heads = ("system", "parameters", "steps", "clips", "s", "sampling", *names, "s/video")
    for head in heads:
        _column(table, head)
    for name, one in runs.items():
        last = one["legs"][-1]
        for setting in one["shown"]:
            shares = [
                f"{100 * s['share']:.0f} [{100 * s['low']:.0f}, {100 * s['high']:.0f}]"
                for s in setting["shares"].values()
            ]
            table.add_row(
                *(name, f"{one['parameters']:,}", f"{last['steps']:,}", f"{last['clips']:,}"),
                *(f"{last['seconds']:.0f}", sampling(setting), *shares),
                f"{setting['seconds_per_video']:.2f}",
            )
    return table


def sampling(setting: dict[str, Any]) -> str:
    """The sampling settings in words."""
    own = "" if setting.get("remove_parallel", True) else ", plain"
    return f"{setting['steps']} steps, {setting['scale']:g}{own}"


def _column(table: Table, head: str) -> None:
    text = head in ("task", "system", "sampling")
    table.add_column(head, justify="left" if text else "right", no_wrap=True)


def bracket(one: dict[str, float]) -> str:
    """Median [min–max]."""
    return f"{one['median']:.2f} [{one['min']:.2f}–{one['max']:.2f}]"
