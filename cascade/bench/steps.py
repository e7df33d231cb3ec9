"""Real training steps of a stage, timed: a fit of Lightning with the run's own callbacks."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from typing_extensions import override

from cascade.bench.clips import from_memory
from cascade.bench.kernels import Kernels, compiled
from cascade.bench.parts import Parts
from cascade.loggers.csv_logger import AtomicCSVLogger
from cascade.opening import open_data
from cascade.stage import trained_by_lightning

#: Callbacks that act once in many steps, or on real clips, and are left out.
SELDOM = frozenset(("checkpoint", "probe", "start", "worth", "samples"))


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Numbers of steps: before any is timed, timed, and recorded by torch's profiler."""

    warmup: int
    timed: int
    profiled: int

    #: Steps on a GPU whose time is divided into parts, apart from the timed ones.
    divided = 3

    @property
    def all(self) -> int:
        """The largest number of steps of a fit."""
        return self.warmup + self.timed + self.divided + self.profiled


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of timed steps on this rank."""

    first_s: float
    """Seconds of the first step, with the start of the loader and the compilation of blocks."""
    steps_s: list[float]
    """Seconds of each timed step."""
    shapes: list[tuple[int, int, int]]
    """The shapes of all clips of the timed steps."""
    parts_s: dict[str, float]
    """Seconds of each part of a step, the mean over the divided steps."""
    divided_s: float
    """Seconds of a divided step, the mean."""
    peak_bytes: int | None
    kernels: Kernels | None
    compiled: dict[str, Any] | None
    loss: float
    precision: str
    world: int

    @property
    def step_s(self) -> float:
        """The median step."""
        return statistics.median(self.steps_s)


class Timer(pl.Callback):
    """Times steps from the end of one to the end of the next, and ends the fit."""

    def __init__(self, rounds: Rounds, parts: Parts, *, cuda: bool) -> None:
        self.rounds, self.parts, self.cuda = rounds, parts, cuda
        self.kernels = Kernels(cuda=cuda) if rounds.profiled else None
        self.marks: list[Any] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.first_s = self.divided_s = self.loss = 0.0
        self.parts_s: dict[str, float] = {}
        self.peak_bytes: int | None = None
        self.compiled: dict[str, Any] | None = None
        self._timing = False
        self._stepped = 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the first step."""
        self._script = self._phases()
        next(self._script)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Note a step's end; the last one ends the fit."""
        if self._timing:
            self.shapes += outputs["losses"].shapes
        if trainer.global_step == self._stepped:
            return  # more micro batches of this step follow
        self._stepped = trainer.global_step
        if next(self._script, "ended") == "ended":
            self.loss = float(outputs["mean"])
            trainer.should_stop = True

    def _phases(self) -> Iterator[None]:
        """Everything between steps, in order; each `yield` is a step."""
        began = time.perf_counter()
        yield
        self._wait()
        self.first_s = time.perf_counter() - began
        for _ in range(self.rounds.warmup - 1):
            yield
        yield from self._timed()
        if self.cuda:
            yield from self._divided()
        self.compiled = compiled()
        if self.kernels is not None:
            self._wait()
            self.kernels.start()
            for _ in range(self.rounds.profiled):
                yield
            self._wait()
            self.kernels.stop(self.rounds.profiled)

    def _timed(self) -> Iterator[None]:
        """The timed steps; on a CPU they are the divided ones too."""
        self._wait()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            self.parts.begin(waits=False)
        self._timing = True
        self.marks.append(self._mark())
        for _ in range(self.rounds.timed):
            yield
            self.marks.append(self._mark())
        self._timing = False
        if self.cuda:
            self._wait()
            self.peak_bytes = torch.cuda.max_memory_allocated()
        else:
            self._end_parts(self.marks[-1] - self.marks[0], self.rounds.timed)

    def _divided(self) -> Iterator[None]:
        self.parts.begin(waits=True)
        began = time.perf_counter()
        for _ in range(self.rounds.divided):
            yield
        self._wait()
        self._end_parts(time.perf_counter() - began, self.rounds.divided)

    def _end_parts(self, seconds: float, steps: int) -> None:
        self.parts_s = {part: spent / steps for part, spent in self.parts.end().items()}
        self.divided_s = seconds / steps

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _mark(self) -> Any:
        """This moment of the device: a GPU reaches it later than the CPU."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def steps_s(self) -> list[float]:
        """Seconds of each timed step."""
        pairs = zip(self.marks[:-1], self.marks[1:], strict=True)
        if self.cuda:
            return [one.elapsed_time(other) / 1e3 for one, other in pairs]
        return [other - one for one, other in pairs]


def fit(
    config: Mapping[str, Any],
    rounds: Rounds,
    *,
    loader: bool,
    callbacks: Sequence[pl.Callback] = (),
) -> tuple[Measured, Any]:
    """Train a stage for `rounds`; its figures, and the stage.

    Args:
        config: the plain config of a run.
        rounds: the numbers of steps.
        loader: whether batches come from the run's loader, or from memory.
        callbacks: further callbacks of the fit.
    """
    stage: Any = hydra.utils.instantiate(trained_by_lightning(config["stage"]), _convert_="all")
    parts = Parts()
    parts.watch(stage.text)
    with tempfile.TemporaryDirectory() as folder:
        timer, trainer = _trainer(config, rounds, parts, Path(folder), callbacks)
        data = open_data(config, stage)
        if not loader:
            size = stage.recipe.global_batch // (
                trainer.world_size * trainer.accumulate_grad_batches
            )
            count = (rounds.all + 1) * trainer.accumulate_grad_batches
            data = from_memory(data, stage, size=max(size, 1), count=count)
        trainer.fit(stage, data)
    return (
        Measured(
            first_s=timer.first_s,
            steps_s=timer.steps_s,
            shapes=timer.shapes,
            parts_s=timer.parts_s,
            divided_s=timer.divided_s,
            peak_bytes=timer.peak_bytes,
            kernels=timer.kernels,
            compiled=timer.compiled,
            loss=timer.loss,
            precision=str(trainer.precision),
            world=trainer.world_size,
        ),
        stage,
    )


def _trainer(
    config: Mapping[str, Any],
    rounds: Rounds,
    parts: Parts,
    folder: Path,
    others: Sequence[pl.Callback],
) -> tuple[Timer, pl.Trainer]:
    """The trainer of the config, without validation and saves, and its timer."""
    cuda = torch.cuda.is_available() and config["trainer"].get("accelerator") != "cpu"
    timer = Timer(rounds, parts, cuda=cuda)
    own = [
        hydra.utils.instantiate(one, _convert_="all")
        for name, one in config["callbacks"].items()
        if name not in SELDOM
    ]
    options = {
        **config["trainer"],
        "max_steps": rounds.all + 1,  # the averages write a snapshot at the last
        "limit_val_batches": 0,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "default_root_dir": str(folder),
    }
    trainer: pl.Trainer = hydra.utils.instantiate(
        options,
        callbacks=[_Watch(parts), *own, *others, timer],
        logger=AtomicCSVLogger(str(folder), "metrics", flush_logs_every_n_steps=1),
        profiler=parts,
        _convert_="all",
    )
    return timer, trainer


class _Watch(pl.Callback):
    """Counts the network's calls as `forward`, once it is built."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the network."""
        net: Any = pl_module.net
        self.parts.watch(net)
