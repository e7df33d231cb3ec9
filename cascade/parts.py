"""The public names of the parts of a stage, by which bundles and runs record them.

A config names a class by its module path (`_target_: cascade.nn.dit.DiT`), a bundle by its name
alone (`part: DiT`), so that old bundles load after a file has moved. The names are those of the
public classes in `PLACES`; no two may be equal.
"""

import ast
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Where the classes of a stage are defined: modules, and folders of modules.
PLACES = (
    *("cascade/grid.py", "cascade/codec.py", "cascade/text", "cascade/nn", "cascade/diffusion"),
    *("stages", "stages/objective"),
)


class UnknownPartError(ValueError):
    """A name that is not a part of a stage."""


@functools.cache
def modules() -> dict[str, str]:
    """The module of each public class, by the class's name.

    Raises:
        ValueError: two classes have the same name.
    """
    found: dict[str, str] = {}
    for place in PLACES:
        path = ROOT / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    if node.name in found:
                        raise ValueError(
                            f"two parts are named {node.name}: {found[node.name]} and {module}; "
                            "rename one, since bundles record parts by name"
                        )
                    found[node.name] = module
    return found


def named(config: Any) -> Any:
    """A config with each `_target_` that is a part of a stage replaced by its public name."""
    if isinstance(config, Mapping):
        plain = {key: named(value) for key, value in config.items()}
        target = plain.get("_target_")
        if isinstance(target, str):
            module, _, name = target.rpartition(".")
            if modules().get(name) == module:
                del plain["_target_"]
                return {"part": name, **plain}
        return plain
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [named(value) for value in config]
    return config


def anonymous(config: Any) -> Any:
    """A config with each `_target_` reduced to the name of its class or function.

    So a run's record does not change when a file moves.
    """
    if isinstance(config, Mapping):
        plain = {key: anonymous(value) for key, value in config.items()}
        target = plain.pop("_target_", None)
        return plain if target is None else {"part": str(target).rpartition(".")[2], **plain}
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [anonymous(value) for value in config]
    return config


def located(config: Any, *, where: str) -> Any:
    """The inverse of `named`, for a config that is not trusted.

    Raises:
        UnknownPartError: no class is named as a `part` says, or the config has a `_target_`.
    """
    if isinstance(config, Mapping):
        if "_target_" in config:
            raise UnknownPartError(
                f"{where}: a class must be named by `part`, and be a part of a stage, "
                f"but it has _target_: {config['_target_']!r}"
            )
        plain = {key: located(v, where=f"{where}.{key}") for key, v in config.items()}
        if "part" in plain:
            name = plain.pop("part")
            module = modules().get(name) if isinstance(name, str) else None
            if module is None:
                raise UnknownPartError(
                    f"{where}: this version of Cascade has no part named {name!r}"
                )
            return {"_target_": f"{module}.{name}", **plain}
        return plain
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [located(v, where=f"{where}[{i}]") for i, v in enumerate(config)]
    return config
