"""`make demo`: shards of a world, three trained stages, videos of held-out prompts, a page.

Each step is a command that resumes where it was stopped, so the demo resumes too. Stages in one row
of `conf/demo.yaml` do not depend on each other and train side by side.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn

from cascade.cascade_bundle import save_cascade
from cascade.curves import last_step, read_curves
from cascade.demo.demo_page import Result, write_page
from cascade.entry import CONF, check_choices, command
from cascade.evaluate import evaluate, generated
from cascade.opening import open_cascade
from cascade.progress import SteadyProgress

console = Console()


@dataclass
class StageProcess:
    """A stage that trains in a process of its own."""

    stage: str
    folder: Path
    steps: int
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    task: TaskID | None = None

    def start(self) -> None:
        """Start or resume the training; its output goes to `output.log`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "output.log").open("ab") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    @property
    def done(self) -> bool:
        """Whether the stage has its bundle."""
        return (self.folder / "bundle").is_dir()

    def check(self) -> None:
        """Raise an error with the end of the log if the process failed."""
        if self.process is not None and self.process.poll() not in (None, 0):
            tail = (self.folder / "output.log").read_text(errors="replace").splitlines()[-25:]
            raise RuntimeError(f"stage {self.stage} failed:\n" + "\n".join(tail))


def plan_training(cfg: DictConfig) -> list[list[StageProcess]]:
    """The processes that train the stages, by rows that train side by side."""
    rows = []
    for row in cfg.rows:
        trainings = []
        for name, own in row.items():
            choice = f"{cfg.cascade.name}/{name}"
            overrides = [f"stage={choice}", *cfg.common, *own, f"paths.runs={cfg.paths.runs}"]
            command = [sys.executable, "-m", "cascade.train", *overrides]
            command.append("trainer.enable_progress_bar=false")
            steps = compose("train", overrides=overrides)["stage"]["train"]["steps"]
            folder = Path(cfg.paths.runs) / choice / cfg.run
            trainings.append(StageProcess(str(name), folder, int(steps), command))
        rows.append(trainings)
    return rows


def make_shards(cfg: DictConfig) -> None:
    """Write and index the shards of every stage that are missing."""
    for name in cfg.cascade.stages:
        overrides = [
            f"stage={cfg.cascade.name}/{name}",
            *cfg.common,
            f"paths.runs={cfg.paths.runs}",
        ]
        data = hydra.utils.instantiate(
            compose("train", overrides=overrides)["data"], _convert_="all"
        )
        data.prepare_data()


def train_row(row: list[StageProcess], cfg: DictConfig) -> None:
    """Train a row's stages side by side, with progress bars and the path of the first samples."""
    waiting = [training for training in row if not training.done]
    columns = (
        TextColumn("{task.description:>6}"),
        BarColumn(),
        TextColumn("{task.completed:>5.0f}/{task.total:.0f} steps  {task.fields[note]}"),
        TimeElapsedColumn(),
    )
    try:
        with SteadyProgress(*columns, console=console) as progress:
            for training in waiting:
                training.start()
                training.task = progress.add_task(training.stage, total=training.steps, note="")
            shown: set[Path] = set()
            while any(t.process is not None and t.process.poll() is None for t in waiting):
                time.sleep(2)
                for training in waiting:
                    training.check()
                    show(training, progress, shown, cfg)
    finally:
        for training in waiting:
            if training.process is not None and training.process.poll() is None:
                training.process.terminate()
    for training in waiting:
        training.check()


def show(
    training: StageProcess, progress: SteadyProgress, shown: set[Path], cfg: DictConfig
) -> None:
    """Update the progress bar; add new sample videos to the page and print the first ones' path."""
    loss = read_curves(training.folder).get("train/loss", [])
    note = f"loss {loss[-1][1]:.4f}" if loss else "starting"
    assert training.task is not None
    done = training.steps if training.done else last_step(training.folder)
    progress.update(training.task, completed=done, note=note)
    for path in sorted(training.folder.glob("samples/*/captions.json")):
        if path not in shown:
            if not shown:
                console.print(f"first samples of {training.stage}: {path.parent}, on {cfg.page}")
            shown.add(path)
            write_page(cfg)


@command("demo")
def main(cfg: DictConfig) -> None:
    """The command line."""
    began = time.monotonic()
    GlobalHydra.instance().clear()
    initialize_config_dir(version_base="1.3", config_dir=CONF)
    times: dict[str, float] = {}

    def lap(name: str) -> None:
        times[name] = time.monotonic() - began - sum(times.values())
        console.print(f"[dim]{name}: {times[name]:.0f} s[/dim]")

    console.print("writing shards")
    make_shards(cfg)
    lap("shards")
    rows = plan_training(cfg)
    for row in rows:
        train_row(row, cfg)
        lap(f"train {' + '.join(training.stage for training in row)}")
    cascade = open_cascade(cfg)
    bundles = {t.stage: t.folder / "bundle" for row in rows for t in row}
    chain = {name: bundles[name] for name in cfg.cascade.stages}
    save_cascade(
        Path(cfg.paths.runs) / cfg.cascade.name / "cascade",
        bundles=chain,
        sampling=cfg.cascade.get("sampling", {}),
    )
    made = generated(cfg, cascade)
    report, truth = evaluate(cfg, made)
    lap("evaluate")
    result = Result(made=made, report=report, truth=truth, times=times)
    write_page(cfg, result)
    console.print(f"page: {cfg.page}  ({(time.monotonic() - began) / 60:.1f} minutes)")


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
