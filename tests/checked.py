"""Types and shapes checked while the tests run: calls of the product's functions, by beartype.

jaxtyping's hook gives each call a context in which an axis has one size, and checks its arguments
twice. That is half of the time of code that calls many small functions, so a function whose
signature has no shape is checked by beartype alone.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook

CONF = BeartypeConf(is_pep484_tower=True, violation_type=TypeError)
_in_a_context = jaxtyping.jaxtyped


def install() -> None:
    """Check the calls of all functions of the product's packages, which are not yet imported."""
    jaxtyping.jaxtyped = calls
    install_import_hook(["cascade", "stages", "data"], "tests.checked.typechecked")


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the types of its arguments and its result checked."""
    return beartype(function, conf=CONF)


def calls(what: Any = None, **options: Any) -> Any:
    """The function or the dataclass with its calls checked; alone, the decorator."""
    if what is None:
        return functools.partial(calls, **options)
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what):
            what.__init__ = calls(what.__init__, **options)
        return what
    if inspect.isfunction(what) and not any(map(has_shape, what.__annotations__.values())):
        return typechecked(what)
    return _in_a_context(what, **options)


def has_shape(annotation: Any) -> bool:
    """Whether a shape is in an annotation; a name that is not defined yet may have one."""
    if isinstance(annotation, str):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list | tuple) else get_args(annotation)
    return any(map(has_shape, parts))
