"""Runs on the W&B service, read by `wandb.Api`: `wandb:entity/project[/run or group]`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cascade.comparison.offline import LoggedRows, named
from cascade.comparison.run_record import RunRecord, flat

SCHEME = "wandb:"


def read_service(place: str, *, scratch: Path) -> list[RunRecord]:
    """The runs of a project, of one of its groups, or one run; videos are fetched into `scratch`.

    Raises:
        ValueError: the place is not `wandb:entity/project[/run or group]`, W&B cannot be asked,
            or it has no such run.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    parts = place.removeprefix(SCHEME).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{place}: say wandb:entity/project, with /run or /group behind it")
    path, wanted = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    try:
        api = wandb.Api(timeout=60)
        found = list(api.runs(path, filters={"group": wanted} if wanted else None, lazy=False))
        if not found and wanted and "/" not in wanted:
            found = list(api.runs(path, filters={"name": wanted}, lazy=False))
        records = [read_run(run, scratch) for run in found]
    except wandb.errors.UsageError as error:
        raise ValueError(f"{place}: {error} Or set WANDB_API_KEY.") from error
    except (wandb.errors.Error, WandbApiFailedError, ValueError) as error:
        raise ValueError(f"{place}: W&B says: {error}") from error
    if not records:
        raise ValueError(f"{place}: no run there, neither of this group nor of this id")
    return records


def read_run(run: Any, scratch: Path) -> RunRecord:
    """One run of the service, its whole history; videos are fetched when they are wanted."""
    rows = LoggedRows()
    for row in run.scan_history(use_cache=False):
        rows.add(row, functools.partial(later, run, scratch / run.id))
    return RunRecord(
        name=named({"run_group": run.group, "display_name": run.name, "run_id": run.id}),
        source=f"{SCHEME}{run.entity}/{run.project}/{run.id}",
        state=str(run.state),
        config=flat(dict(run.config)),
        curves=rows.curves,
        videos=rows.videos,
        media=tuple(rows.media),
    )


def later(run: Any, folder: Path, path: str) -> Callable[[], Path]:
    """A file of the run, fetched into the folder the first time that it is asked for."""

    def fetch() -> Path:
        if not (folder / path).is_file():
            run.file(path).download(root=str(folder)).close()
        return folder / path

    return fetch
