"""The shapes of a stage's weights, found without allocating them, up to a limit on their number.

The sizes in a bundle's config are compared with the bundle's weights before anything is allocated.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from cascade.meta import on_meta


class TooManyError(ValueError):
    """A stage has more weights than the limit."""


def build(config: Mapping[str, Any]) -> nn.Module:
    """The stage of a config, with its network built.

    Raises:
        ValueError: the config is not of a module.
    """
    stage: nn.Module = hydra.utils.instantiate(copy.deepcopy(dict(config)), _convert_="all")
    if not isinstance(stage, nn.Module):
        raise ValueError(f"the config is of a {type(stage).__name__}, not of a stage")
    configure = getattr(stage, "configure_model", None)
    if configure is not None:
        configure()
    return stage


def shapes_of(config: Mapping[str, Any], *, most: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a stage's weights, by name, without allocating them.

    Raises:
        TooManyError: it has more than `most` weights; building stops there.
    """
    left = most

    def count(_module: nn.Module, name: str, _value: nn.Parameter) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooManyError(f"its config makes more than {most} weights (at {name!r})")

    hook = register_module_parameter_registration_hook(count)
    try:
        with on_meta():
            stage = build(config)
    except InstantiationException as error:
        if isinstance(error.__cause__, TooManyError):
            raise error.__cause__ from None
        raise
    finally:
        hook.remove()
    return {name: tuple(value.shape) for name, value in stage.state_dict().items()}


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a weights file, by name, without reading the weights."""
    with safe_open(path, framework="pt") as file:
        names: list[str] = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def differences(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """The differences between a bundle's shapes and a network's, one message each."""
    wrong = [
        f"{name}: {given[name]} in the bundle, {wanted[name]} in the net"
        for name in sorted(given.keys() & wanted.keys())
        if given[name] != wanted[name]
    ]
    wrong += [f"{name}: missing in the bundle" for name in sorted(wanted.keys() - given.keys())]
    wrong += [f"{name}: unknown to the net" for name in sorted(given.keys() - wanted.keys())]
    return wrong
