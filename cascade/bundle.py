"""A trained stage on disk, and a cascade of them. Loading executes nothing that came as data.

A bundle is a folder: `model.safetensors` (the averaged weights), `stage.yaml` (a format number and
what sampling needs, no paths), `card.json` (commit, data, steps, EMA width, figures). A cascade
bundle is a folder of bundles with `cascade.yaml`: their order, and how each is sampled.
"""

import contextlib
import importlib
import inspect
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade.files.atomic import read_json
from cascade.outline import TooManyError, build, differences, shapes_in, shapes_of

FORMAT = 1
WEIGHTS, STAGE, CARD, CASCADE = "model.safetensors", "stage.yaml", "card.json", "cascade.yaml"
#: The only modules whose classes a bundle may name; functions are never called.
_ROOMS = re.compile(
    r"(cascade\.(grid|codec|text\.(byte_text|t5)|nn\.\w+|diffusion\.\w+)|stages\.\w+)"
)


#: What a cascade may say of how a stage is sampled.
SAMPLING = ("steps", "guidance_scale", "low_logsnr")


class BundleError(ValueError):
    """A bundle that cannot be used, with the reason and the way out."""


def check_targets(node: Any, *, where: str) -> None:
    """Refuse what a bundle's YAML must not hold.

    Every `_target_` must be a class defined (not merely importable) in one of the modules that a
    stage is made of, and nothing may be interpolated.

    Raises:
        BundleError: naming the place and the target.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == "_target_":
                _check_target(value, where=where)
            if name == "download" and value:
                raise BundleError(f"{where}: a bundle may not ask for a download")
            check_targets(value, where=f"{where}.{name}")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for i, value in enumerate(node):
            check_targets(value, where=f"{where}[{i}]")
    elif isinstance(node, str) and "${" in node:
        raise BundleError(f"{where}: a bundle may not interpolate, but says {node!r}")


def _check_target(target: Any, *, where: str) -> None:
    refused = f"{where}: a bundle may only build the parts of a stage that Cascade defines, not "
    refused += repr(target)
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if not _ROOMS.fullmatch(module):
        raise BundleError(refused)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BundleError(f"{where}: this version of Cascade has no {target!r}") from error
    if not inspect.isclass(found) or found.__module__ != module:
        raise BundleError(refused)


def save_bundle(
    folder: Path,
    *,
    stage: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    card: Mapping[str, Any],
) -> Path:
    """Write a bundle, whole or not at all; `stage` is the stage's plain config.

    What only training needs is left out of it: `train`, and where stored embeddings lie.
    """
    folder = Path(folder)
    spoiled = [name for name, value in weights.items() if not value.isfinite().all()]
    if spoiled:
        raise BundleError(
            f"{folder}: {len(spoiled)} weights are not finite ({spoiled[0]}, …), so nothing was "
            f"saved; go back to an earlier checkpoint, or train with a lower rate"
        )
    config = {name: value for name, value in stage.items() if name != "train"}
    text = {name: value for name, value in config.get("text", {}).items() if name != "embeddings"}
    config |= {"text": text} if text else {}
    check_targets(config, where=STAGE)
    with _replacing(folder) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, part / WEIGHTS)
        text = yaml.safe_dump({"format": FORMAT, "stage": config}, sort_keys=False)
        (part / STAGE).write_text(text, encoding="utf-8")
        (part / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return folder


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write to; it takes its place when all is written.

    Whatever fails, the one that was there stays. A kill between the two renames leaves none of that
    name, and both whole beside it, hidden. What a kill left is removed after the next save. Two
    processes must not write one folder at a time.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        yield part
        part.chmod(0o755)
        try:
            if folder.exists():
                folder.replace(old)
            part.replace(folder)
        except BaseException:
            if old.exists():
                old.replace(folder)
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for rest in folder.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(folder.name)}\.\w{{8}}\.(part|old)", rest.name):
            shutil.rmtree(rest, ignore_errors=True)


def read_card(folder: Path) -> dict[str, Any]:
    """The bundle's card."""
    card: dict[str, Any] = read_json(Path(folder) / CARD)
    return card


def final_loss(run: Path) -> float | None:
    """The `val/loss` that a finished run's card has, if it is finite: a search takes no other."""
    value = read_card(run / "bundle")["figures"].get("val/loss")
    return float(value) if value is not None and math.isfinite(value) else None


def read_stage(folder: Path) -> dict[str, Any]:
    """The bundle's stage config, checked.

    Raises:
        BundleError: no bundle there, another format, or a target that is not ours.
    """
    folder = Path(folder)
    missing = [name for name in (WEIGHTS, STAGE, CARD) if not (folder / name).is_file()]
    if missing:
        raise BundleError(f"{folder} is not a bundle: it has no {', '.join(missing)}")
    content = yaml.safe_load((folder / STAGE).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise BundleError(
            f"{folder / STAGE}: format {found!r}, but this Cascade reads format {FORMAT}"
        )
    stage = content.get("stage")
    if not isinstance(stage, dict):
        raise BundleError(f"{folder / STAGE}: holds no stage")
    check_targets(stage, where=str(folder / STAGE))
    return stage


def load_stage(folder: str | Path) -> nn.Module:
    """The stage of a bundle, in evaluation mode.

    Raises:
        BundleError: it was never trained, or its weights are not of its own config's shapes.
    """
    folder = Path(folder)
    config, card = read_stage(folder), read_card(folder)
    if not card.get("steps"):
        raise BundleError(
            f"{folder} was never trained (card.json: steps {card.get('steps')!r}); "
            f"train it first: make train STAGE={config.get('name')}"
        )
    given = shapes_in(folder / WEIGHTS)
    try:  # hold the config's sizes against the weights before any memory is taken for them
        wanted = shapes_of(config, most=len(given))
    except TooManyError as error:
        raise BundleError(f"{folder}: holds {len(given)} weights, but {error}") from error
    _check_fit(folder, given, wanted)
    stage = build(config)
    load_weights(stage, folder)
    return stage.eval()


def load_weights(module: nn.Module, folder: str | Path) -> None:
    """Copy a bundle's weights into `module`, every one of them.

    Raises:
        BundleError: naming the weights that are missing, unknown or of another shape.
    """
    folder = Path(folder)
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    _check_fit(folder, shapes_in(folder / WEIGHTS), wanted)
    module.load_state_dict(load_file(folder / WEIGHTS))


def _check_fit(
    folder: Path, given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    wrong = differences(given, wanted)
    if wrong:
        shown = "; ".join([*wrong[:3], "…"] if len(wrong) > 3 else wrong)
        raise BundleError(
            f"{folder}: {len(wrong)} weights do not fit ({shown}); "
            f"use the config that the bundle was trained with, or train anew"
        )


def save_cascade(
    folder: Path, *, bundles: Mapping[str, Path], sampling: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Write a cascade bundle: copies of the stages' bundles, in order, and `cascade.yaml`.

    Whole or not at all; one that was there is replaced. `sampling` may give, per stage, `steps`,
    `guidance_scale` and `low_logsnr`.
    """
    folder = Path(folder)
    for source in bundles.values():
        read_stage(source)
    stages = [{"bundle": name, **sampling.get(name, {})} for name in bundles]
    text = yaml.safe_dump({"format": FORMAT, "stages": stages}, sort_keys=False)
    with _replacing(folder) as part:
        for name, source in bundles.items():
            shutil.copytree(source, part / name)
        (part / CASCADE).write_text(text, encoding="utf-8")
    return folder


def read_cascade(folder: Path) -> list[dict[str, Any]]:
    """Per stage, in order: its `bundle` (a path) and how it is sampled."""
    path = Path(folder) / CASCADE
    if not path.is_file():
        raise BundleError(f"{folder} is not a cascade bundle: it has no {CASCADE}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path}: this Cascade reads format {FORMAT}")
    entries = []
    for entry in content.get("stages") or []:
        name = entry.get("bundle") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise BundleError(f"{path}: {name!r} must name a folder beside it")
        unknown = set(entry) - {"bundle", *SAMPLING}
        if unknown:
            raise BundleError(f"{path}: unknown {', '.join(sorted(unknown))}; known: {SAMPLING}")
        entries.append({**entry, "bundle": Path(folder) / entry["bundle"]})
    return entries
