"""A run's config on disk: a run that has trained with one config is not resumed with another."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cascade.checkpoint.checkpoint_folder import Checkpoint, CheckpointError, folders
from cascade.checkpoint.finished import bundled_steps, is_finished
from cascade.files.atomic import read_json, write_atomic
from cascade.meta import on_meta
from cascade.parallel.ranks import is_first
from cascade.parts import anonymous

log = logging.getLogger(__name__)

#: Keys that may change when a run resumes, since they do not affect the numbers: groups, …
FREE = (
    *("cluster", "trainer", "callbacks", "logger", "paths", "hydra"),
    *("name", "group", "min_psnr", "min_gain"),
)
#: … keys of `data`, with everything below them, …
FREE_DATA = ("loading", "index", "selection.max_dropped")
#: … and all of `trainer` and `callbacks` except these keys, which affect steps or averages.
FIXED = {
    "trainer": ("precision", "gradient_clip_val", "gradient_clip_algorithm"),
    "callbacks": ("guard", "ema"),
}

#: Keys of which a larger value lengthens a run; the others follow the first.
STEPS = ("stage.train.steps", "stage.train.lr_factor.total_steps", "data.max_steps")

#: Files and folders that a run writes besides its checkpoints.
TRACES = (
    *("metrics", "samples", "losses.jsonl", "spikes.jsonl", "quarantine.jsonl"),
    *("stacks", "wandb", "ema", "config.json"),
)


class ConfigChangedError(ValueError):
    """The run has trained with another config."""


def differences(old: Any, new: Any, *, where: str = "") -> list[str]:
    """Every key whose value differs, as `key: old → new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        parts = [
            differences(old.get(key, "nothing"), new.get(key, "nothing"), where=f"{where}.{key}")
            for key in keys
        ]
        return [line for part in parts for line in part]
    return [] if old == new else [f"{where.lstrip('.')}: {old!r} → {new!r}"]


def fixed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that affects a run's numbers and may not change, as JSON values."""
    part = {name: value for name, value in config.items() if name not in FREE}
    part["data"] = _fixed_data(config["data"])
    for group, fixed in FIXED.items():
        part[group] = {k: v for k, v in config.get(group, {}).items() if k in fixed}
    plain: dict[str, Any] = json.loads(json.dumps(anonymous(part)))
    return plain


def is_free_data(key: str) -> bool:
    """Whether a dotted key of `data` may change between two jobs of a run."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_DATA)


def _fixed_data(node: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """The keys of `data` that may not change."""
    fixed = {}
    for name, value in node.items():
        if not is_free_data(f"{where}{name}"):
            inner = isinstance(value, Mapping)
            fixed[name] = _fixed_data(value, where=f"{where}{name}.") if inner else value
    return fixed


def _unplaced(part: Mapping[str, Any]) -> dict[str, Any]:
    """The fixed part of a config without the paths of its shards."""
    data = dict(part["data"])
    if "shards" in data:
        data["shards"] = _unplaced_shards(data["shards"])
    if isinstance(data.get("validation"), Mapping):
        validation = data["validation"]
        data["validation"] = {**validation, "shards": _unplaced_shards(validation.get("shards"))}
    return {**part, "data": data}


def _unplaced_shards(shards: Any) -> Any:
    if isinstance(shards, Mapping):
        return {
            name: {**one, "shards": "some"} if isinstance(one, Mapping) else one
            for name, one in shards.items()
        }
    return "some" if shards else shards


def keep_config(run: Path, config: dict[str, Any]) -> None:
    """Write the run's config; if the run has trained already, check that it is the same.

    More steps are written when training starts (`callbacks/lengthened.py`), so that a run that
    cannot start stays as it was.

    Raises:
        ConfigChangedError: with every difference and the ways out.
    """
    path, mine = run / "config.json", fixed_part(config)
    if has_trained(run):
        check_config(run, config)
        if is_first() and not _is_longer(_config_in(path), mine):
            write_config(path, mine)
    elif is_first():
        if path.is_file() and _config_in(path) != mine:
            _put_away(run)
        write_config(path, mine)


def write_config(path: Path, part: dict[str, Any]) -> None:
    """Write the fixed part of a config, unless the file has it already."""
    if not path.is_file() or _config_in(path) != part:
        write_atomic(path, json.dumps(part, indent=2, ensure_ascii=False).encode())


def _put_away(run: Path) -> None:
    """Move what was logged with a config that was abandoned, so that this run's curves lack it."""
    traces = [run / name for name in TRACES if (run / name).exists()]
    if traces:
        away = run / "before" / f"{len(list(run.glob('before/*')))}"
        away.mkdir(parents=True)
        for path in traces:
            path.rename(away / path.name)
        log.warning(
            "%s: another config was started here without a checkpoint; its logs moved to %s",
            run,
            away,
        )


def has_trained(run: Path) -> bool:
    """Whether the run has a checkpoint or a bundle trained with the config in its folder."""
    return (run / "config.json").is_file() and (bool(folders(run)) or (run / "bundle").is_dir())


def check_config(run: Path, config: Mapping[str, Any]) -> None:
    """Check that a config is the one that the run has trained with, if it has trained.

    Raises:
        ConfigChangedError: with every difference and the ways out; or no checkpoint is left from
            which a run with more steps could go on.
    """
    if not has_trained(run):
        return
    refuse_change(run, _config_in(run / "config.json"), fixed_part(config))
    done = bundled_steps(run)
    if done is not None and not is_finished(run, config) and not folders(run):
        raise ConfigChangedError(
            f"{run}: no checkpoint of its {done} steps is left, so it cannot be lengthened; start "
            f"a new run from its weights: NAME=… ARGS='init_from={run}/bundle'"
        )


def _config_in(path: Path) -> dict[str, Any]:
    out = "; restore it from the `config` of a checkpoint's manifest.json, or choose another NAME=…"
    config: dict[str, Any] = read_json(path, out=out)
    return config


def refuse_change(run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse a config that differs from the run's.

    Raises:
        ConfigChangedError: with every difference and the ways out.
    """
    if folders(run):  # checkpoints have the data's fingerprint, wherever its shards are
        old, new = _unplaced(old), _unplaced(new)
    changed = differences(old, new)
    if not changed or _only_longer(old, new, changed):
        return
    lines = "\n  ".join(changed)
    out = "Use the old config, or choose another NAME=…"
    if any(line.startswith(STEPS) for line in changed):
        out += f" (a run is lengthened by a larger {STEPS[0]} alone)"
    if (run / "bundle").is_dir():
        out += f", or start a new run from its weights: NAME=… ARGS='init_from={run}/bundle'"
    raise ConfigChangedError(
        f"{run} was trained with another config (old → new):\n  {lines}\n{out}"
    )


def _only_longer(old: dict[str, Any], new: dict[str, Any], changed: list[str]) -> bool:
    """Whether the new config only has more steps, for which the schedule is computed anew."""
    if {line.partition(":")[0] for line in changed} - {*STEPS}:
        return False
    values = [[_at(config, key) for key in STEPS] for config in (old, new)]
    follow = all(value in (None, one[0]) for one in values for value in one)
    return follow and _is_longer(old, new)


def _is_longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return bool((_at(new, STEPS[0]) or 0) > (_at(old, STEPS[0]) or 0))


def _at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None if it is not there."""
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def shapes(stage: nn.Module) -> dict[str, list[int]]:
    """The shapes of a stage's weights, by name, even if its network is not built yet."""
    found = {name: list(value.shape) for name, value in stage.state_dict().items()}
    if stage.net is None:
        with on_meta():
            net: nn.Module = stage.new_net()
        found |= {f"net.{name}": list(value.shape) for name, value in net.state_dict().items()}
    return found


def check_fits(
    checkpoint: Checkpoint, stage: nn.Module, config: Mapping[str, Any], run: Path
) -> None:
    """Refuse a checkpoint of another stage or config, or with other shapes, before reading it.

    Raises:
        CheckpointError: it is of another stage, or its weights have other shapes.
        ConfigChangedError: it was written with another config.
    """
    manifest, folder = checkpoint.manifest, checkpoint.folder
    if manifest.stage != stage.name:
        raise CheckpointError(
            f"checkpoint {folder} is of stage {manifest.stage}, but this run trains {stage.name}; "
            "choose another NAME=…"
        )
    refuse_change(run, fixed_part(manifest.config), fixed_part(config))
    theirs, mine = manifest.shapes, shapes(stage)
    wrong = [
        f"{name}: {theirs.get(name, 'none')} in the checkpoint, "
        f"{mine.get(name, 'none')} in the network"
        for name in sorted({*theirs, *mine})
        if theirs.get(name) != mine.get(name)
    ]
    if wrong:
        shown = "; ".join([*wrong[:3], "…"] if len(wrong) > 3 else wrong)
        raise CheckpointError(
            f"checkpoint {folder}: {len(wrong)} weights have other shapes than the network "
            f"({shown}); use the config that it was written with, or choose another NAME=…"
        )
