"""Modules on torch's `meta` device: their tensors have shapes, but neither values nor memory."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _WithoutValues(TorchFunctionMode):
    """Draws no values, for which torch would import its compiler or sympy on `meta`, in seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        if func in (torch.rand, torch.randn):
            return torch.empty(*args, **{k: v for k, v in named.items() if k != "generator"})
        return func(*args, **named)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Inside, modules are built on `meta`."""
    with torch.device("meta"), _WithoutValues():
        yield
