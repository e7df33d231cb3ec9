"""A run's metrics over its steps, read from its CSV files, one per start or resume."""

import csv
from pathlib import Path

Curve = list[tuple[int, float]]


def read_curves(run: Path) -> dict[str, Curve]:
    """Metric → (step, value), ordered by step; of a repeated step, the later value counts.

    Raises:
        ValueError: a file is damaged.
    """
    files = sorted(
        Path(run).glob("metrics/version_[0-9]*/metrics.csv"),
        key=lambda path: int(path.parent.name.rpartition("_")[2]),
    )
    curves: dict[str, dict[int, float]] = {}
    for path in files:
        try:
            rows = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a kill cuts the last row
            for row in csv.DictReader(rows.splitlines()):
                step = row.pop("step", None)
                row.pop("epoch", None)
                for name, value in row.items() if step else ():
                    if value:
                        curves.setdefault(name, {})[int(step)] = float(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return {name: sorted(points.items()) for name, points in curves.items()}


def last_step(run: Path) -> int:
    """The last step with a metric; 0 if there is none."""
    return max((points[-1][0] for points in read_curves(run).values()), default=0)
