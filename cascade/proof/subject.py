"""The run that is checked: its folder, its stage in training and in its bundle, its data."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import Float
from torch import Tensor

from cascade import keyed
from cascade.bundle import load_stage, load_weights, read_card
from cascade.checkpoint.checkpoint_folder import manifests
from cascade.checkpoint.manifest import Manifest
from cascade.checkpoint.run_config import check_config
from cascade.comparison.run_folder import is_run, status
from cascade.grid import Grid
from cascade.opening import open_data
from cascade.proof.found import NotCheckedError
from cascade.stage import Batch, Stage, TrainableStage

#: The purpose of all random draws of a proof.
PURPOSE = "prove"


@dataclass(frozen=True, kw_only=True)
class ProofSettings:
    """The settings of a proof, which `conf/prove.yaml` explains."""

    clips: int
    draws: int
    few: int
    steps: int
    batch: int
    device: str
    resume: Mapping[str, Any]
    worth: Mapping[str, Any]
    tolerances: Mapping[str, float]
    out: str | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained run; nothing here writes into its folder."""

    run: Path
    config: dict[str, Any]
    card: dict[str, Any]
    saved: list[Manifest]
    """The manifests of the checkpoints that still exist, newest first."""
    trained: TrainableStage
    """The stage built from the run's config, with the bundle's weights."""
    bundled: Stage
    """The stage loaded from the bundle, as for sampling."""
    settings: ProofSettings
    data: Any
    """The data module; None if the data is missing."""
    held: Batch | None
    """Held-out clips of one shape."""
    missing: str
    """Why the data is missing; empty if it is there."""

    @property
    def device(self) -> torch.device:
        """The device of the stages."""
        return torch.device(self.bundled.device)

    def clips(self) -> Batch:
        """Held-out clips of one shape.

        Raises:
            NotCheckedError: the data is missing.
        """
        if self.held is None:
            raise NotCheckedError(self.missing)
        return self.held

    def few(self, count: int) -> Batch:
        """`count` held-out clips, repeated if there are fewer; noise if the data is missing."""
        held = self.held or self._noise(count)
        positions = range(len(held["position"]))
        rows = [positions[i % len(positions)] for i in range(count)]
        return taken(held, rows)

    def _noise(self, count: int) -> Batch:
        frames, height, width = self.config["stage"]["train"]["crop"] or self.bundled.target.shape
        drawn = keyed.normals(0, range(count), PURPOSE, (3, frames, height, width))
        video = (drawn * 64 + 128).clamp(0, 255).to(torch.uint8)
        return {
            "video": video.to(self.device),
            "caption": [f"clip {i}" for i in range(count)],
            "fps": torch.full((count,), float(self.bundled.target.fps), device=self.device),
            "zoom": torch.ones(count, device=self.device),
            "key": [str(i) for i in range(count)],
            "position": torch.arange(count),
        }


def taken(batch: Batch, rows: Sequence[int]) -> Batch:
    """The samples of a batch with these numbers."""
    return {
        name: value[list(rows)] if isinstance(value, Tensor) else [value[i] for i in rows]
        for name, value in batch.items()
        if name != "weight"
    }


def grid_of(video: Float[Tensor, "b c f h w"], fps: float) -> Grid:
    """The grid of a video in pixels."""
    _, _, frames, height, width = video.shape
    return Grid(frames=frames, height=height, width=width, fps=fps)


def find(run: Path, *, train: str) -> dict[str, Any]:
    """The card of the bundle in a run's folder; `train` is the command that trains it.

    Raises:
        ValueError: there is no run, or it has no bundle yet.
    """
    if not is_run(run):
        raise ValueError(f"prove: no run in {run}; train one: {train}")
    if not (run / "bundle").is_dir():
        state, error = status(run)
        raise ValueError(
            f"prove: {run} has no bundle: the run is {state}{f' ({error})' if error else ''}; "
            f"finish it with the command that started it: {train}"
        )
    return read_card(run / "bundle")


def config_of(run: Path, composed: dict[str, Any], saved: Sequence[Manifest]) -> dict[str, Any]:
    """The config that the run was trained with, from its newest checkpoint.

    A run without checkpoints is checked with the composed config, if that is the run's own.

    Raises:
        ConfigChangedError: it is not; add the overrides that the run was trained with.
    """
    if saved:
        return copy.deepcopy(dict(saved[0].config))
    check_config(run, composed)
    return copy.deepcopy(composed)


def open_run(
    run: Path, config: dict[str, Any], card: dict[str, Any], settings: ProofSettings
) -> Subject:
    """Open a run: its stages on their device, and its data if that exists."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config["stage"]["train"]["compile"] = False
    trained = cast(TrainableStage, instantiate(config["stage"], _convert_="all"))
    trained.configure_model()
    load_weights(cast(torch.nn.Module, trained), run / "bundle")
    trained.eval()
    trained.to(device)
    bundled = cast(Stage, load_stage(run / "bundle"))
    bundled.to(device)
    data, held, missing = _data(config, trained, settings)
    if held is not None:
        held = data.transfer_batch_to_device(held, torch.device(device), 0)
    return Subject(
        run=run,
        config=config,
        card=card,
        saved=manifests(run),
        trained=trained,
        bundled=bundled,
        settings=settings,
        data=data,
        held=held,
        missing=missing,
    )


def data_config(config: Mapping[str, Any], **changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the run's data for one process, which makes no shards that are missing.

    `changes` are merged into groups of options: validation={"samples": 8}.
    """
    data = {**config["data"], "make": None}
    for group, options in ({"loading": {"num_workers": 0}} | changes).items():
        if group in data:
            data[group] = {**data[group], **options}
    return data


def _data(
    config: Mapping[str, Any], stage: Stage, settings: ProofSettings
) -> tuple[Any, Batch | None, str]:
    """The data module and held-out clips of one shape, or the reason why the data is missing."""
    data = None
    try:
        most = max(settings.clips, settings.batch)
        data = open_data({"data": data_config(config, validation={"samples": most})}, stage)
        data.prepare_data()
        data.setup("fit")
        loader = data.val_loader(size=most)
        held = next(iter(loader))
        loader.close()
        return data, held, ""
    except (ValueError, OSError, InstantiationException) as error:
        if data is not None:
            data.teardown()
        why = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(why, ValueError | OSError):
            raise  # the config does not fit the code, whatever the data is
        where = config["data"].get("shards")
        return None, None, f"the run's data cannot be read ({where}): {why or error}"
