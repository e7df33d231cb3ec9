"""A comparison as a report on the W&B service: table, curves, videos and configs."""

from collections.abc import Sequence
from typing import Any

from cascade.comparison.offline import STEP
from cascade.comparison.run_record import RunRecord
from cascade.comparison.service import SCHEME
from cascade.comparison.table import chosen, differing, settings, short, text


def write_report(
    records: Sequence[RunRecord], *, title: str, figures: Sequence[str], curves: Sequence[str]
) -> str:
    """Save the report in the project of the first run; returns its URL.

    Raises:
        ValueError: a run is not on the service, or `wandb-workspaces` is not installed.
    """
    elsewhere = [record.name for record in records if not record.source.startswith(SCHEME)]
    if elsewhere:
        raise ValueError(
            f"compare: a W&B report needs runs of the service, but {', '.join(elsewhere)} were "
            "read from files; `wandb sync` them and set RUNS='wandb:entity/project/group'"
        )
    try:
        import wandb_workspaces.reports.v2 as reports
    except ModuleNotFoundError as error:
        raise ValueError("REPORT=1 needs wandb-workspaces: pip install '.[report]'") from error

    entity, project = records[0].source.removeprefix(SCHEME).split("/")[:2]
    report = reports.Report(
        entity=entity,
        project=project,
        title=title.removeprefix(SCHEME).replace("/", " ")[:128],
        description="Config differences, metrics and sample videos of these runs.",
        width="fluid",
        blocks=[
            reports.H2("Table"),
            reports.MarkdownBlock(markdown(records, figures)),
            reports.H2("Curves"),
            reports.PanelGrid(runsets=runsets(records), panels=plots(records, curves)),
            reports.H2("Videos"),
            reports.PanelGrid(runsets=runsets(records), panels=[browser(records)]),
            reports.H2("Configs"),
            reports.PanelGrid(
                runsets=runsets(records), panels=[reports.RunComparer(diff_only="split")]
            ),
        ],
    )
    report.save()
    return str(report.url)


def markdown(records: Sequence[RunRecord], patterns: Sequence[str]) -> str:
    """The table in Markdown."""
    keys, figures = differing(records), chosen(records, patterns)
    names = short(keys)
    rows: list[list[object]] = [["run", "state", "step", *figures, *(names[key] for key in keys)]]
    rows.append(["---"] * len(rows[0]))
    for record in records:
        values = [record.last(name) for name in figures]
        rows.append(
            [record.name, record.state, record.step, *values, *settings(record, keys)],
        )
    return "\n".join(f"| {' | '.join(cell(value) for value in row)} |" for row in rows)


def cell(value: object) -> str:
    """A value with the characters that would end a Markdown cell escaped or replaced."""
    return text(value).replace("|", "\\|").replace("\n", " ")


def runsets(records: Sequence[RunRecord]) -> list[Any]:
    """One W&B run set per project, with the runs by id."""
    import wandb_workspaces.reports.v2 as reports
    from wandb_workspaces import expr

    places: dict[tuple[str, str], list[str]] = {}
    for record in records:
        entity, project, identity = record.source.removeprefix(SCHEME).split("/", 2)
        places.setdefault((entity, project), []).append(identity)
    return [
        reports.Runset(
            entity=entity,
            project=project,
            name=f"{len(identities)} runs of {project}",
            filters=[expr.Metric("ID").isin(identities)],
        )
        for (entity, project), identities in places.items()
    ]


def plots(records: Sequence[RunRecord], patterns: Sequence[str]) -> list[Any]:
    """A chart per metric over the trainer's steps."""
    import wandb_workspaces.reports.v2 as reports

    names = [n for n in chosen(records, patterns) if any(n in r.curves for r in records)]
    return [
        reports.LinePlot(
            title=name, x=STEP, y=[name], log_y="loss" in name, max_runs_to_show=len(records)
        )
        for name in names
    ]


def browser(records: Sequence[RunRecord]) -> Any:
    """The runs' videos: a column per run, a row per step."""
    import wandb_workspaces.reports.v2 as reports

    keys = list(dict.fromkeys(key for record in records for key in record.media))
    return reports.MediaBrowser(
        media_keys=keys, mode="grid", grid_x_axis="run", grid_y_axis="step", num_columns=4
    )
