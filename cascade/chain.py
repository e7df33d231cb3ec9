"""The chain of a cascade: its stages' bundles, whether they fit, and its sampling settings."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.bundle import BundleError, load_stage
from cascade.cascade_bundle import CASCADE, SAMPLING, read_cascade
from cascade.stage import Stage

log = logging.getLogger(__name__)
#: The run of a stage for which none is named.
DEFAULT = "default"
#: The sampling settings of each stage, in order.
Settings = list[dict[str, Any]]


def bundles_of(source: str | Path | Sequence[str | Path]) -> tuple[list[str | Path], Settings]:
    """The stage bundles of a cascade bundle, or bundles in order, and their sampling settings.

    Raises:
        BundleError: there is no bundle.
    """
    paths: list[str | Path]
    if isinstance(source, str | Path) and (Path(source) / CASCADE).is_file():
        entries = read_cascade(Path(source))
        paths = [entry.pop("bundle") for entry in entries]
        sampling = entries
    else:
        paths = [source] if isinstance(source, str | Path) else list(source)
        sampling = [{} for _ in paths]
    if not paths:
        raise BundleError(f"{source}: a cascade needs at least a base stage, got none")
    return paths, sampling


def runs_of(
    runs: str | Path, chain: Mapping[str, Any], run: str | Mapping[str, str]
) -> tuple[list[Path], Settings]:
    """The stage bundles of the training runs of `chain`, and their sampling settings.

    Raises:
        ValueError: `run` or `sampling` names a stage that the cascade does not have, or the cascade
            has one twice.
        BundleError: a stage has no bundle yet; the message has the command that trains it.
    """
    names = list(chain["stages"])
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"cascade {chain['name']} has stage {twice[0]} more than once: {', '.join(names)}; "
            f"remove one of them from conf/cascade/{chain['name']}.yaml"
        )
    check_run(run)
    if not isinstance(run, str) and (unknown := sorted({*run} - {*names})):
        raise ValueError(
            f"run: cascade {chain['name']} has no stage {', '.join(unknown)}; "
            f"its stages are {', '.join(names)}"
        )
    folder = Path(runs) / chain["name"]
    paths = []
    for name, one in _run_of_each(folder, names, run).items():
        path = folder / name / one / "bundle"
        if not path.is_dir():
            raise BundleError(
                f"stage {name} of cascade {chain['name']} is not trained: {path} is missing; "
                f"make train STAGE={name} CASCADE={chain['name']} NAME={one}"
            )
        paths.append(path)
    settings = chain.get("sampling") or {}
    if unknown := sorted({*settings} - {*names}):
        raise ValueError(
            f"sampling: cascade {chain['name']} has no stage {', '.join(unknown)}; "
            f"its stages are {', '.join(names)}"
        )
    sampling = [dict(settings.get(name) or {}) for name in names]
    return paths, sampling


def _run_of_each(
    folder: Path, names: Sequence[str], run: str | Mapping[str, str]
) -> dict[str, str]:
    """The run of each stage; where only some have the named one, the others use `default`."""
    if not isinstance(run, str):
        return {name: run.get(name, DEFAULT) for name in names}
    having = [name for name in names if (folder / name / run / "bundle").is_dir()]
    without = [name for name in names if name not in having] if having else []
    if without:
        log.warning(
            "no run %s of %s: the run %s is used; name others by ARGS='run={%s: …}'",
            *(run, ", ".join(without), DEFAULT, without[0]),
        )
    return {name: DEFAULT if name in without else run for name in names}


def open_stage(path: str | Path) -> Stage:
    """The stage of a bundle.

    Raises:
        BundleError: the bundle is not of a stage.
    """
    stage = load_stage(path)
    if not isinstance(stage, Stage):
        raise BundleError(f"{path}: is a {type(stage).__name__}, not a stage of a cascade")
    return stage


def check_run(run: Any) -> None:
    """Check that `run` from a user names runs: YAML reads run=5 as a number.

    Raises:
        ValueError: it is neither a name nor a mapping to names.
    """
    names = list(run.values()) if isinstance(run, Mapping) else [run]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"run must be the name of a run, or a mapping from stage to name, got {run!r}; a "
            "name that is a number needs quotes: run=\"'…'\""
        )


def check_chain(stages: Sequence[Stage]) -> None:
    """Check that stages form a cascade.

    Raises:
        ValueError: the first is not a base, a later one is, two have the same name, or frame rates
            do not match.
    """
    if not stages or stages[0].kind.takes_low:
        raise ValueError("the first stage of a cascade must be a base")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(
            f"the stages of a cascade must have different names, got {', '.join(names)}"
        )
    for before, after in itertools.pairwise(stages):
        if not after.kind.takes_low:
            raise ValueError(f"{after.name} is a base and can only be the first stage")
        if after.low_grid.fps != before.target.fps:
            raise ValueError(
                f"{before.name} and {after.name} do not match: {before.name} generates "
                f"{before.target.fps:g} frames per second, {after.name} takes "
                f"{after.low_grid.fps:g} (it generates {after.target} with {after.kind.scale})"
            )


def check_sampling(stages: Sequence[Stage], sampling: Sequence[Mapping[str, Any]]) -> None:
    """Check the cascade's own sampling settings.

    Raises:
        ValueError: a setting does not exist or has an invalid value, or there is not one mapping
            per stage.
    """
    if len(sampling) != len(stages):
        raise ValueError(f"sampling: {len(stages)} stages, but settings of {len(sampling)}")
    for stage, settings in zip(stages, sampling, strict=True):
        for name, value in settings.items():
            if name not in SAMPLING:
                raise ValueError(
                    f"sampling.{stage.name}.{name}: no such setting; a cascade may set "
                    f"{', '.join(SAMPLING)}"
                )
            check_setting(name, value)


def check_setting(name: str, value: Any) -> None:
    """Check a sampling setting; None is the stage's own.

    Raises:
        ValueError: it is not a finite number or, for steps, not an integer of at least 1.
    """
    kind, wanted = (int, "an integer") if name == "steps" else (int | float, "a finite number")
    number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not (number and (name != "steps" or value >= 1)):
        least = " of at least 1" if name == "steps" else ""
        raise ValueError(f"{name} must be {wanted}{least}, got {value!r}")


def per_stage(name: str, value: Any, count: int) -> list[Any]:
    """A setting of a call as one value per stage, from one value or a sequence of them.

    Raises:
        ValueError: there is not one value per stage, or a value is invalid.
    """
    several = isinstance(value, Sequence) and not isinstance(value, str)
    values = list(value) if several else [value] * count
    if len(values) != count:
        raise ValueError(f"{name}: {count} stages, but {len(values)} values; give one or {count}")
    for one in values:
        check_setting(name, one)
    return values
