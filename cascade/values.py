"""Rules for the values of a command's config, all checked before anything is computed.

A rule says in words what a value must be. `check` names what the user named: the key, the value and
the rule, and the way out. The rules of each command are in `cascade/command_values.py`.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

#: What YAML reads, in words.
KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a value must be, in words and as a test, and the way out."""

    wants: str
    holds: Callable[[Any], bool]
    way_out: str = ""

    def hint(self, way_out: str) -> "Rule":
        """The same rule with a way out."""
        return replace(self, way_out=way_out)

    @property
    def or_null(self) -> "Rule":
        """The same rule; null is allowed too."""
        return replace(
            self, wants=f"{self.wants}, or null", holds=lambda v: v is None or self.holds(v)
        )


def text() -> Rule:
    """Text."""
    return Rule(wants="text", holds=lambda v: isinstance(v, str))


def switch() -> Rule:
    """A boolean."""
    return Rule(wants="true or false", holds=lambda v: isinstance(v, bool))


def whole(least: int, most: int | None = None) -> Rule:
    """A whole number of a range."""
    upper = "" if most is None else f" and at most {most}"
    top = math.inf if most is None else most
    return Rule(
        wants=f"a whole number of at least {least}{upper}",
        holds=lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= top,
    )


def number(
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Rule:
    """A finite number of a range; `above` and `below` are excluded."""
    bounds: list[tuple[str, float | None, Callable[[Any, Any], bool]]] = [
        ("above", above, operator.gt),
        ("of at least", least, operator.ge),
        ("below", below, operator.lt),
        ("of at most", most, operator.le),
    ]
    used = [(word, bound, keeps) for word, bound, keeps in bounds if bound is not None]

    def holds(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and all(k(value, bound) for _, bound, k in used)

    named = " and ".join(f"{word} {bound:g}" for word, bound, _ in used)
    return Rule(wants=f"a number {named}" if named else "a finite number", holds=holds)


def choice(*names: str) -> Rule:
    """One of some names."""
    return Rule(wants=f"one of {', '.join(names)}", holds=lambda v: v in names)


def several(one: Rule, *, least: int = 1) -> Rule:
    """A list of values that each keep a rule."""

    def holds(value: Any) -> bool:
        return _is_list(value) and len(value) >= least and all(one.holds(v) for v in value)

    start = "a list" if least == 0 else f"a list of at least {least}"
    return Rule(wants=f"{start}, each {one.wants}", holds=holds)


def one_or_several(one: Rule) -> Rule:
    """A value, or a list of values."""
    many = several(one)
    return Rule(
        wants=f"{one.wants}, or a list of them", holds=lambda v: one.holds(v) or many.holds(v)
    )


def names_of_runs() -> Rule:
    """The name of a run, or a mapping from stage to name."""
    return Rule(
        wants="the name of a run, or a mapping from stage to name",
        holds=lambda v: all(
            isinstance(one, str) for one in (v.values() if isinstance(v, Mapping) else [v])
        ),
        way_out="quote a name that YAML reads otherwise: run=\"'1'\"",
    )


def part(way_out: str) -> Rule:
    """A part that Hydra builds: a mapping with a `_target_`."""
    return Rule(
        wants="a mapping with a _target_",
        holds=lambda v: isinstance(v, Mapping) and isinstance(v.get("_target_"), str),
        way_out=way_out,
    )


def mapping() -> Rule:
    """A mapping."""
    return Rule(wants="a mapping", holds=lambda v: isinstance(v, Mapping))


def check(cfg: DictConfig, rules: Mapping[str, Rule]) -> None:
    """Refuse the first value that breaks its rule; a key whose parent was removed is skipped.

    `*` in the key of a rule stands for every key of that mapping.

    Raises:
        ValueError: with the key, the value, the rule and the way out.
    """
    for pattern, rule in rules.items():
        for key in _keys(cfg, pattern.split(".")):
            _check(cfg, key, rule)


def _keys(cfg: DictConfig, path: Sequence[str], done: Sequence[str] = ()) -> Iterator[list[str]]:
    """The existing keys that match a rule's path."""
    if not path:
        yield list(done)
        return
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing():
        return
    for name in [str(key) for key in cfg] if path[0] == "*" else [path[0]]:
        if name in cfg or OmegaConf.is_missing(cfg, name):
            node = cfg._get_node(name)
            below = node if isinstance(node, DictConfig) else DictConfig(None)
            yield from _keys(below, path[1:], [*done, name])


def _check(cfg: DictConfig, key: Sequence[str], rule: Rule) -> None:
    name = ".".join(key)
    end = f"; {rule.way_out}" if rule.way_out else ""
    node = cfg
    for step in key[:-1]:
        node = node[step]
    if OmegaConf.is_missing(node, key[-1]):
        raise ValueError(f"{name} is missing; it must be {rule.wants}{end}")
    value = node[key[-1]]
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=False)
    if not rule.holds(value):
        found = kind(value)  # said where it is what is wrong: not of a number out of range
        fits = rule.wants.startswith((found, found.replace("whole ", "")))
        but = "" if fits else f", but is {found}"
        raise ValueError(f"{name}={shown(value)}: must be {rule.wants}{but}{end}")


def shown(value: Any) -> str:
    """A value as a user types it, cut where it is long."""
    if isinstance(value, Mapping):
        typed = "{" + ", ".join(f"{name}: {shown(one)}" for name, one in value.items()) + "}"
    elif _is_list(value):
        typed = f"[{','.join(shown(one) for one in value)}]"
    else:
        typed = "null" if value is None else str(value)
        typed = typed.lower() if isinstance(value, bool) else typed
    return typed if len(typed) <= 60 else f"{typed[:59]}…"


def kind(value: Any) -> str:
    """What YAML reads a value as, in words."""
    if isinstance(value, Mapping):
        return "a mapping"
    if _is_list(value):
        return f"a list of {len(value)}"
    return KINDS.get(type(value), type(value).__name__)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
