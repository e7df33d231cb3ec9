"""Shared by the command lines: the configs' folder, checks of arguments and values, errors.

It imports neither torch nor Lightning, so that a command that computes nothing answers at once.
"""

import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cascade import values
from cascade.command_values import COMMANDS

#: Config groups whose choices are checked before Hydra does.
GROUPS = ("stage", "cascade", "data", "experiment", "cluster")
T = TypeVar("T")
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
        if choices == "null" and (Path(CONF) / group).is_dir():
            none = f"to have none, type {group}=[]" if group == "logger" else f"or omit {group}="
            raise SystemExit(
                f"{argument}: null is no config of this group; "
                f"choose a file of conf/{group}, {none}"
            )
        if group not in GROUPS:
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
        SystemExit: with the message; with 130 after Ctrl-C, as shells expect.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C while the process ends
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from stop
    except (ValueError, OSError, InstantiationException, OmegaConfBaseException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise SystemExit(f"error: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What a user reads of an error: its message, and the key of the config if it names none."""
    cause = error.__cause__ if isinstance(error, InstantiationException) else error
    if isinstance(cause, ValueError | OSError):
        return str(cause)
    what = str(cause or error).partition("\n")[0]
    found = re.search(r"full_key: (\S+)", str(error))
    return f"{found[1]}: {what}" if found else what


def command(
    name: str, *, before: Callable[[DictConfig, Sequence[str]], DictConfig] | None = None
) -> Callable[[Callable[[DictConfig], T]], Callable[[], T]]:
    """The command line of a function, with `conf/<name>.yaml`.

    Values are checked before the function is called, and errors are explained. `before` takes the
    config and the typed overrides, and returns the config that is checked.
    """

    def decorate(function: Callable[[DictConfig], T]) -> Callable[[], T]:
        @explained()
        @functools.wraps(function)
        def checked(cfg: DictConfig) -> T:
            if before is not None:
                cfg = before(cfg, list(HydraConfig.get().overrides.task))
            values.check(cfg, COMMANDS[name])
            return function(cfg)

        main: Callable[[], T] = hydra.main(version_base="1.3", config_path=CONF, config_name=name)(
            checked
        )
        return main

    return decorate
