"""Whether a run is finished: its bundle has all steps of its config."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def bundled_steps(run: Path) -> int | None:
    """The steps of the run's bundle; None if it has none."""
    path = run / "bundle" / "card.json"
    try:
        steps = json.loads(path.read_bytes())["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def is_finished(run: Path, config: Mapping[str, Any]) -> bool:
    """Whether the run has a bundle of all steps of its config."""
    done, steps = bundled_steps(run), config["stage"]["train"]["steps"]
    return (run / "bundle").is_dir() and (done is None or done >= steps)
