"""One stage, trained once for every setting: `python -m cascade.sweep stage=demo/base sweep=lr`.

A sweep is a file of `conf/sweep`, or `conf/sweep/<cascade>/<stage>`; several, `sweep='a b'`, are
crossed. Its runs live in `runs/<cascade>/<stage>/<sweep>/<key=value,…>`, and are one group in W&B.
The same command again runs only what is missing. At the end, a table and a page, whatever failed.
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

#: What this command says to Hydra in its own way.
OURS = ("stage", "sweep", "name", "cluster", "jobs", "follow")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is asked for: files of `conf/sweep`, one stage, and where its runs are to run."""

    stage: str
    choices: Sequence[str]
    name: str
    task: str
    overrides: Sequence[str]

    @property
    def arguments(self) -> list[str]:
        """What the task is told: Hydra does the rest."""
        group, (cascade, _, stage) = f"{self.stage}/{self.name}", self.stage.partition("/")
        told = {
            "train": [f"stage={self.stage}", f"+group='{group}'"],
            "evaluate": [f"cascade={cascade}", f"stage_name={stage}"],
        }
        chosen = f"sweep=[{','.join(self.choices)}]"
        return ["--multirun", *told[self.task], chosen, f"name='{self.name}'", *self.overrides]


def read(arguments: Sequence[str]) -> Sweep:
    """The sweep that a command line asks for.

    Raises:
        SystemExit: it names no sweep, one that there is not, or some that do not go together.
    """
    told = dict(part.split("=", 1) for part in arguments if "=" in part)
    rest = [p for p in arguments if p.partition("=")[0] not in OURS]
    stage, names = told.get("stage", "demo/base"), told.get("sweep", "").strip("'\"").split()
    check_choices([f"stage={stage}"])
    choices = [resolve(name, stage) for name in names]
    if not choices:
        raise SystemExit(f"which sweep? SWEEP=…; there are {', '.join(known(stage))}")
    tasks = {str(selected(choice, "hydra.job.name") or "train") for choice in choices}
    if len(tasks) > 1:
        raise SystemExit(f"{' and '.join(names)} cannot be crossed: one trains, the other does not")
    (task,) = tasks
    searching = [name for name, choice in zip(names, choices, strict=True) if searches(choice)]
    if searching and len(searching) < len(names):
        grids = " and ".join(name for name in names if name not in searching)
        raise SystemExit(
            f"{' and '.join(searching)}: a search, which chooses its own values, is not "
            f"crossed with {grids}; run it alone: SWEEP={searching[0]}"
        )
    name = told.get("name", "").strip("'\"") or "+".join(names)
    return Sweep(
        stage=stage,
        choices=choices,
        name=name,
        task=task,
        overrides=[*place(told, task, bool(searching)), *rest],
    )


def place(told: Mapping[str, str], task: str, searching: bool) -> list[str]:
    """Where the runs are to run, and how many at a time.

    Jobs of a cluster are left to it, unless they are followed, or a search waits for their figures.

    Raises:
        SystemExit: an evaluation is asked for on a cluster.
    """
    cluster, jobs = told.get("cluster", "local"), told.get("jobs")
    at_a_time = [f"hydra.sweeper.n_jobs={jobs}"] if jobs and searching else []
    if cluster == "local":
        return [*at_a_time, *([f"hydra.launcher.jobs={jobs}"] if jobs else [])]
    if task != "train":
        raise SystemExit(f"CLUSTER={cluster}: a sweep that only samples runs on this machine")
    options = {"follow": bool(told.get("follow")), "wait": searching}
    asked = [f"hydra.launcher.{name}=true" for name, wanted in options.items() if wanted]
    return ["hydra/launcher=slurm", f"cluster={cluster}", *at_a_time, *asked]


def resolve(name: str, stage: str) -> str:
    """A sweep's file: the stage's own where there is one, else what serves every stage.

    Raises:
        SystemExit: naming those that there are.
    """
    for choice in (f"{stage}/{name}", name):
        if (Path(CONF) / "sweep" / f"{choice}.yaml").is_file():
            return choice
    raise SystemExit(f"sweep={name}: no such sweep of {stage}; there are {', '.join(known(stage))}")


def known(stage: str) -> list[str]:
    """The sweeps of a stage."""
    folder = Path(CONF) / "sweep"
    return sorted({p.stem for p in (*folder.glob("*.yaml"), *folder.glob(f"{stage}/*.yaml"))})


def selected(choice: str, key: str) -> Any:
    """A value of a sweep's file; none where it does not say."""
    return OmegaConf.select(OmegaConf.load(Path(CONF) / "sweep" / f"{choice}.yaml"), key)


def searches(choice: str) -> bool:
    """Whether Optuna says what a sweep runs next."""
    return {"override /hydra/sweeper": "search"} in (selected(choice, "defaults") or [])


def conclude(sweep: Sweep, shown: DictConfig) -> None:
    """Print the table and write the page of what there is."""
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
    log.info("the page: %s", page)


def folder_of(sweep: Sweep, shown: DictConfig) -> Path:
    """Where the sweep's runs lie."""
    return Path(shown.paths.runs) / sweep.stage / sweep.name


def main() -> None:
    """The command line.

    Raises:
        SystemExit: a run failed, or nothing could be run.
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
