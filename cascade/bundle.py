"""Bundles: a trained stage on disk. Loading executes no code from files.

A bundle is a folder: `model.safetensors` (the averaged weights), `stage.yaml` (a format number and
the config that sampling needs, with parts by public name), `card.json` (commit, data, steps, EMA
width, figures, a checksum of the weights).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import InstantiationException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade.files.atomic import read_json, replacing_folder
from cascade.outline import TooManyError, build, differences, shapes_in, shapes_of
from cascade.parts import UnknownPartError, located, named

FORMAT = 2
WEIGHTS, STAGE, CARD = "model.safetensors", "stage.yaml", "card.json"
#: The key of the card that has the SHA-256 of the file of weights.
CHECKSUM = "weights_sha256"
#: The parts of a stage's config that only training needs.
TRAINING = ("train", "objective")
#: The first bytes of a file that git-lfs puts in the place of one that it has not fetched.
LFS = b"version https://git-lfs"
AGAIN = "copy it again, or train the stage again: make train STAGE=…"


class BundleError(ValueError):
    """A bundle that cannot be used; the message has the reason and the remedy."""


def check_values(node: Any, *, where: str) -> None:
    """Check that a bundle's YAML has no interpolation and no request to download.

    Raises:
        BundleError: it has one; the message names the key and the value.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == "download" and value:
                raise BundleError(
                    f"{where}: a bundle must not request a download, but has {value!r}"
                )
            check_values(value, where=f"{where}.{name}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for i, value in enumerate(node):
            check_values(value, where=f"{where}[{i}]")
    elif isinstance(node, str) and "${" in node:
        raise BundleError(f"{where}: a bundle must not interpolate, but has {node!r}")


def to_parts(config: Mapping[str, Any], *, where: str) -> Any:
    """A stage's config as a bundle records it: its parts by their public names.

    Raises:
        BundleError: the config names a class that is not a part of a stage.
    """
    check_values(config, where=where)
    plain = named(config)
    try:
        located(plain, where=where)
    except UnknownPartError as error:
        raise BundleError(str(error)) from error
    return plain


def stage_parts(stage: Mapping[str, Any]) -> Any:
    """What a bundle records of a stage's config: not `train`, `objective` and stored embeddings.

    Raises:
        BundleError: the config names a class that is not a part of a stage.
    """
    config = {name: value for name, value in stage.items() if name not in TRAINING}
    text = {name: value for name, value in config.get("text", {}).items() if name != "embeddings"}
    return to_parts(config | ({"text": text} if text else {}), where=STAGE)


def save_bundle(
    folder: Path,
    *,
    stage: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    card: Mapping[str, Any],
) -> Path:
    """Write a bundle atomically; `stage` is the stage's config as plain values."""
    folder = Path(folder)
    spoiled = [name for name, value in weights.items() if not value.isfinite().all()]
    if spoiled:
        raise BundleError(
            f"{folder}: {len(spoiled)} weights are not finite ({spoiled[0]}, …), so nothing was "
            f"saved; resume from an earlier checkpoint, or train with a lower learning rate"
        )
    parts = stage_parts(stage)
    with replacing_folder(folder) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, part / WEIGHTS)
        card = {**card, CHECKSUM: _sha256(part / WEIGHTS)}
        text = yaml.safe_dump({"format": FORMAT, "stage": parts}, sort_keys=False)
        (part / STAGE).write_text(text, encoding="utf-8")
        (part / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return folder


def read_card(folder: Path) -> dict[str, Any]:
    """The bundle's card.

    Raises:
        BundleError: it is missing or damaged.
    """
    try:
        card: dict[str, Any] = read_json(Path(folder) / CARD, out=f"; {AGAIN}")
    except OSError as error:
        raise BundleError(f"{folder} is not a bundle: it has no {CARD}") from error
    except ValueError as error:
        raise BundleError(str(error)) from error
    if not isinstance(card, dict):
        raise BundleError(f"{Path(folder) / CARD} is damaged: {AGAIN}")
    return card


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of a bundle.

    Raises:
        BundleError: it is damaged.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{path} is damaged: {reason}; {AGAIN}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_pointer(path: Path) -> None:
    """Refuse a file that stands for one that git-lfs has not fetched."""
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise BundleError(
                f"{path} is only a pointer of git-lfs; fetch the file in its repository: "
                "git lfs pull"
            )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    try:
        return shapes_in(folder / WEIGHTS)
    except SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS} is damaged: {error}; {AGAIN}") from error


def final_loss(run: Path) -> float | None:
    """The `val/loss` of a finished run, from its card; None if it is missing or not finite."""
    value = read_card(run / "bundle")["figures"].get("val/loss")
    return float(value) if value is not None and math.isfinite(value) else None


def read_stage(folder: Path) -> dict[str, Any]:
    """The bundle's stage config, checked.

    Raises:
        BundleError: there is no bundle, or it has another format or unknown parts.
    """
    folder = Path(folder)
    missing = [name for name in (WEIGHTS, STAGE, CARD) if not (folder / name).is_file()]
    if missing:
        raise BundleError(
            f"{folder} is not a bundle: it has no {', '.join(missing)}; a cascade of several "
            "bundles has cascade.yaml, and is made by: make bundle CASCADE=… OUT=folder"
        )
    for name in (WEIGHTS, STAGE, CARD):
        _check_pointer(folder / name)
    content = read_yaml(folder / STAGE)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise BundleError(
            f"{folder / STAGE}: has format {found!r}, but this Cascade reads format {FORMAT}; "
            "train the stage again: make train STAGE=…"
        )
    stage = content.get("stage")
    if not isinstance(stage, dict):
        raise BundleError(
            f"{folder / STAGE}: has no key stage; train the stage again: make train STAGE=…"
        )
    check_values(stage, where=str(folder / STAGE))
    try:
        config: dict[str, Any] = located(stage, where=str(folder / STAGE))
    except UnknownPartError as error:
        raise BundleError(str(error)) from error
    return config


def load_stage(folder: str | Path) -> nn.Module:
    """The stage of a bundle, in evaluation mode.

    Raises:
        BundleError: it was never trained, or its weights do not have the shapes of its config.
    """
    folder = Path(folder)
    config, card = read_stage(folder), read_card(folder)
    if not card.get("steps"):
        raise BundleError(
            f"{folder} was never trained (card.json: steps {card.get('steps')!r}); "
            f"train it first: make train STAGE={config.get('name')}"
        )
    given = _shapes(folder)
    try:  # check the config's sizes before memory is allocated for them
        wanted = shapes_of(config, most=len(given))
    except TooManyError as error:
        raise BundleError(f"{folder}: holds {len(given)} weights, but {error}") from error
    except (InstantiationException, TypeError, ValueError) as error:
        raise BundleError(
            f"{folder}: this version of Cascade cannot build its config: "
            f"{error.__cause__ or error}; train the stage again: make train STAGE=…"
        ) from error
    _check_fit(folder, given, wanted)
    stage = build(config)
    load_weights(stage, folder)
    return stage.eval()


def load_weights(module: nn.Module, folder: str | Path) -> None:
    """Copy a bundle's weights into `module`, every one of them.

    Raises:
        BundleError: weights are missing, unknown or of another shape; the message names them.
    """
    folder = Path(folder)
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    _check_fit(folder, _shapes(folder), wanted)
    module.load_state_dict(read_weights(folder))


def start_from(module: nn.Module, folder: str | Path) -> None:
    """Copy the weights of a bundle of the same network as initial weights.

    Raises:
        BundleError: it is no bundle, it is damaged, or its weights do not fit.
    """
    folder = Path(folder)
    read_stage(folder)
    read_card(folder)
    load_weights(module, folder)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A bundle's weights, by name.

    Raises:
        BundleError: the file is damaged, or not the one that the card was written with, or the card
            does not say which.
    """
    stated, found = read_card(folder).get(CHECKSUM), _sha256(folder / WEIGHTS)
    if stated is None:
        raise BundleError(
            f"{folder / CARD}: has no {CHECKSUM}, so the weights cannot be checked; {AGAIN}"
        )
    if stated != found:
        raise BundleError(
            f"{folder / WEIGHTS} is damaged, or another bundle's: its SHA-256 is {found[:12]}…, "
            f"but {CARD} has {str(stated)[:12]}…; {AGAIN}"
        )
    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS} is damaged: {error}; {AGAIN}") from error


def _check_fit(
    folder: Path, given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    wrong = differences(given, wanted)
    if wrong:
        shown = "; ".join([*wrong[:3], "…"] if len(wrong) > 3 else wrong)
        raise BundleError(
            f"{folder}: {len(wrong)} weights do not fit ({shown}); "
            f"use the config that the bundle was trained with, or train again"
        )
