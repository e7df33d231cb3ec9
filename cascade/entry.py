"""Shared by the command lines: the configs' folder, checks of arguments, errors, the cascade."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from cascade.pipeline import Cascade
from cascade.stage import Stage

#: Config groups whose choices are checked before Hydra does.
GROUPS = ("stage", "cascade", "data", "experiment", "cluster")
#: The dtypes in which a cascade may run.
DTYPES = ("float32", "bfloat16", "float16")
CONF = str(Path(__file__).resolve().parents[1] / "conf")


def check_choices(arguments: Sequence[str]) -> None:
    """Refuse a stage, cascade, data, … without a config, and an invalid `name`.

    Raises:
        SystemExit: with a message that lists the existing configs.
    """
    one_run = not {"-m", "--multirun"} & {*arguments}
    for argument in arguments:
        group, _, choices = argument.partition("=")
        if group == "name" and one_run and "${" not in choices:  # before Hydra makes its folder
            with explained(), contextlib.suppress(yaml.YAMLError):  # Hydra reports a syntax error
                check_name(choices[1:-1] if choices[:1] in ("'", '"') else yaml.safe_load(choices))
        if group not in GROUPS or choices == "null":
            continue
        folder = Path(CONF) / group
        known = sorted(
            str(path.relative_to(folder).with_suffix(""))
            for path in folder.rglob("*.yaml")
            if not path.name.startswith("_")
        )
        for choice in choices.split(","):
            if choice not in known:
                raise SystemExit(f"{group}={choice}: no such {group}; there are {', '.join(known)}")


def check_name(name: object) -> None:
    """Refuse a run name that is not a folder below the stage's, or has special characters.

    Raises:
        ValueError: with the rule.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"name={name!r}: a run's name must be text, but YAML reads {type(name).__name__}; put "
            "it in quotes: \"name='…'\""
        )
    if not re.fullmatch(r"[\w.+=,-]+(/[\w.+=,-]+)*", name) or {".", ".."} & set(name.split("/")):
        raise ValueError(
            f"name={name!r}: a run's name may have letters, digits and _ . + = , - with / between "
            "folders; choose another NAME=…"
        )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Prints a user's error as one message without a traceback, unless HYDRA_FULL_ERROR=1.

    Raises:
        SystemExit: with the message.
    """
    try:
        yield
    except (ValueError, OSError, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise SystemExit(f"error: {cause or error}") from error


def open_data(config: Mapping[str, Any], stage: Stage) -> Any:
    """The data module of a plain config, for a stage."""
    return instantiate(
        config["data"], multiple=stage.multiple, fetch=stage.text.ahead(), _convert_="all"
    )


def open_cascade(cfg: DictConfig, **options: Any) -> Cascade:
    """The cascade that a config names: a bundle, or the runs of its stages."""
    device = cfg.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.dtype not in DTYPES:
        raise ValueError(f"dtype={cfg.dtype}: must be one of {', '.join(DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={device}: cannot be used ({reason}); set device=cpu") from error
    options.update(device=device, dtype=getattr(torch, cfg.dtype))
    if cfg.bundle is not None:
        return Cascade.from_pretrained(cfg.bundle, **options)
    return Cascade.from_runs(cfg.paths.runs, cfg.cascade, run=cfg.run, **options)
