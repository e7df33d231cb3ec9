"""Train one stage once for every setting: `python -m cascade.sweep stage=demo/base sweep=lr`.

A sweep is a file in `conf/sweep` or `conf/sweep/<cascade>/<stage>`; several, `sweep='a b'`, are
crossed. Its runs are in `runs/<cascade>/<stage>/<sweep>/<key=value,…>` and form one W&B group.
Running the same command again trains only the missing runs. It ends with a table and a page of all
runs, even if some failed.
"""

import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from cascade import launch
from cascade.comparison.compare_page import write_page
from cascade.comparison.find import below, find
from cascade.comparison.table import as_text
from cascade.entry import CONF, check_choices, explained

log = logging.getLogger(__name__)

#: Keys of the command line that this command translates for Hydra.
OWN_KEYS = ("stage", "sweep", "name", "cluster", "jobs", "follow")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A requested sweep: one stage, files of `conf/sweep`, and further overrides."""

    stage: str
    choices: Sequence[str]
    name: str
    task: str
    overrides: Sequence[str]

    @property
    def arguments(self) -> list[str]:
        """The command line of the Hydra task that runs the sweep."""
        group, (cascade, _, stage) = f"{self.stage}/{self.name}", self.stage.partition("/")
        subject = {
            "train": [f"stage={self.stage}", f"+group='{group}'"],
            "evaluate": [f"cascade={cascade}", f"stage_name={stage}"],
        }
        chosen = f"sweep=[{','.join(self.choices)}]"
        return ["--multirun", *subject[self.task], chosen, f"name='{self.name}'", *self.overrides]


def read(arguments: Sequence[str]) -> Sweep:
    """The sweep that a command line requests.

    Raises:
        SystemExit: it names no sweep, an unknown one, or several that cannot be crossed.
    """
    given = dict(part.split("=", 1) for part in arguments if "=" in part)
    rest = [p for p in arguments if p.partition("=")[0] not in OWN_KEYS]
    stage, names = given.get("stage", "demo/base"), given.get("sweep", "").strip("'\"").split()
    check_choices([f"stage={stage}"])
    choices = [resolve(name, stage) for name in names]
    if not choices:
        raise SystemExit(f"no sweep was given; add SWEEP=…; there are {', '.join(known(stage))}")
    tasks = {str(selected(choice, "hydra.job.name") or "train") for choice in choices}
    if len(tasks) > 1:
        raise SystemExit(
            f"{' and '.join(names)} cannot be crossed: one sweep trains, the other only samples"
        )
    (task,) = tasks
    searching = [name for name, choice in zip(names, choices, strict=True) if searches(choice)]
    if searching and len(searching) < len(names):
        grids = " and ".join(name for name in names if name not in searching)
        raise SystemExit(
            f"{' and '.join(searching)}: a search chooses its own values and cannot be "
            f"crossed with {grids}; run it alone: SWEEP={searching[0]}"
        )
    name = given.get("name", "").strip("'\"") or "+".join(names)
    return Sweep(
        stage=stage,
        choices=choices,
        name=name,
        task=task,
        overrides=[*launcher_options(given, task, bool(searching)), *rest],
    )


def launcher_options(given: Mapping[str, str], task: str, searching: bool) -> list[str]:
    """Overrides for where the runs are trained, and how many at a time.

    On a cluster the command returns once the jobs are submitted, unless they are followed, or a
    search needs their metrics.

    Raises:
        SystemExit: the sweep only samples, but a cluster was requested.
    """
    cluster, jobs = given.get("cluster", "local"), given.get("jobs")
    at_a_time = [f"hydra.sweeper.n_jobs={jobs}"] if jobs and searching else []
    if cluster == "local":
        return [*at_a_time, *([f"hydra.launcher.jobs={jobs}"] if jobs else [])]
    if task != "train":
        raise SystemExit(
            f"CLUSTER={cluster}: a sweep that only samples runs on this machine; leave out CLUSTER"
        )
    options = {"follow": bool(given.get("follow")), "wait": searching}
    asked = [f"hydra.launcher.{name}=true" for name, wanted in options.items() if wanted]
    return ["hydra/launcher=slurm", f"cluster={cluster}", *at_a_time, *asked]


def resolve(name: str, stage: str) -> str:
    """A sweep's file: the stage's own, else the one for every stage.

    Raises:
        SystemExit: there is neither; the message lists the stage's sweeps.
    """
    for choice in (f"{stage}/{name}", name):
        if (Path(CONF) / "sweep" / f"{choice}.yaml").is_file():
            return choice
    raise SystemExit(f"sweep={name}: no such sweep of {stage}; there are {', '.join(known(stage))}")


def known(stage: str) -> list[str]:
    """The names of a stage's sweeps."""
    folder = Path(CONF) / "sweep"
    return sorted({p.stem for p in (*folder.glob("*.yaml"), *folder.glob(f"{stage}/*.yaml"))})


def selected(choice: str, key: str) -> Any:
    """A value in a sweep's file; None if it is not set."""
    return OmegaConf.select(OmegaConf.load(Path(CONF) / "sweep" / f"{choice}.yaml"), key)


def searches(choice: str) -> bool:
    """Whether a sweep's values are chosen by Optuna."""
    return {"override /hydra/sweeper": "search"} in (selected(choice, "defaults") or [])


def conclude(sweep: Sweep, shown: DictConfig) -> None:
    """Print the table and write the page of the sweep's runs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    folder = folder_of(sweep, shown)
    if not any(below(folder)):
        return
    with tempfile.TemporaryDirectory() as scratch:
        records = find(f"'{folder}'", scratch=Path(scratch))
        log.info("\n%s", as_text(records, shown.figures))
        page = write_page(
            records,
            folder / "index.html",
            title=f"{sweep.stage}: {sweep.name}",
            figures=shown.figures,
            curves=shown.curves,
            prompts=shown.prompts,
        )
    log.info("page: %s", page)


def folder_of(sweep: Sweep, shown: DictConfig) -> Path:
    """The folder of the sweep's runs."""
    return Path(shown.paths.runs) / sweep.stage / sweep.name


def main() -> None:
    """The command line.

    Raises:
        SystemExit: a run failed, or the command line is invalid.
    """
    sweep = read(sys.argv[1:])
    paths = [part for part in sweep.overrides if part.startswith("paths.")]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        shown = compose("compare", overrides=["runs=''", *paths])
    launch.register()
    sys.argv[1:] = sweep.arguments
    try:
        import_module(f"cascade.{sweep.task}").main()
    finally:
        with explained():
            conclude(sweep, shown)


if __name__ == "__main__":
    main()
