"""A summary of the indices of many shards, for the terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(
    shards: Sequence[str], abouts: Sequence[Mapping[str, Any]], console: Console
) -> None:
    """Print counts of samples by reason, of members not read, and the damage of shards."""
    fit, unfit, others = 0, Counter[str](), Counter[str]()
    for about in abouts:
        fit += about["fit"]
        unfit.update(about["unfit"])
        others.update(about["others"])
    table = Table(title=f"{len(shards)} shards, {fit + unfit.total()} samples", min_width=40)
    table.add_column("count", justify="right")
    table.add_column("samples or members")
    table.add_row(str(fit), "usable")
    for reason, count in unfit.most_common():
        table.add_row(str(count), f"unusable: {reason}")
    for word, count in others.most_common():
        table.add_row(str(count), f"members not read: {word}")
    console.print(table, markup=False)
    for shard, about in zip(shards, abouts, strict=True):
        if about["error"]:
            console.print(f"{shard}: {about['error']}", markup=False, soft_wrap=True)
