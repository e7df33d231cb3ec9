"""Runs on the W&B service, read by `wandb.Api`: `wandb:entity/project[/run or group]`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cascade.comparison.offline import LoggedRows, display_name
from cascade.comparison.run_record import RunRecord, flat
from cascade.parts import anonymous

SCHEME = "wandb:"


def read_service(place: str, *, scratch: Path) -> list[RunRecord]:
    """The runs of a project, of one of its groups, or one run; videos are fetched into `scratch`.

    Raises:
        ValueError: the place is not `wandb:entity/project[/run or group]`, the service returns an
            error, or it has no such run.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    parts = place.removeprefix(SCHEME).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise ValueError(
            f"{place}: is not of the form wandb:entity/project, wandb:entity/project/run or "
            "wandb:entity/project/group"
        )
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
        raise ValueError(f"{place}: W&B returned an error: {error}") from error
    if not records:
        raise ValueError(f"{place}: W&B has no run with this group or id")
    return records


def read_run(run: Any, scratch: Path) -> RunRecord:
    """One run of the service with its full history; videos are fetched when they are needed."""
    rows = LoggedRows()
    for row in run.scan_history(use_cache=False):
        rows.add(row, functools.partial(fetcher, run, scratch / run.id))
    return RunRecord(
        name=display_name({"run_group": run.group, "display_name": run.name, "run_id": run.id}),
        source=f"{SCHEME}{run.entity}/{run.project}/{run.id}",
        state=str(run.state),
        config=flat(anonymous(dict(run.config))),
        curves=rows.curves,
        videos=rows.videos,
        media=tuple(rows.media),
    )


def fetcher(run: Any, folder: Path, path: str) -> Callable[[], Path]:
    """A function that downloads a file of the run into the folder at its first call."""

    def fetch() -> Path:
        if not (folder / path).is_file():
            run.file(path).download(root=str(folder)).close()
        return folder / path

    return fetch
