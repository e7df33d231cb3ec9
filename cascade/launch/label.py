"""The names of a sweep's runs: `<sweep>/<key=value,…>`, with the swept keys only."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from cascade.comparison.table import short

#: Characters that a folder name, a Hydra override or a shell would not take literally.
SPECIAL = re.compile(r"[^\w.+-]+")


def named(
    jobs: Sequence[Sequence[str]], *, swept: Sequence[str], sweep: str
) -> list[tuple[str, list[str]]]:
    """Each job's name, and its overrides including that name.

    Raises:
        ValueError: two jobs would have the same name.
    """
    words = _words(swept)
    found: dict[str, list[str]] = {}
    for job in jobs:
        values = dict(override.split("=", 1) for override in job)
        pairs = [part for key in swept for part in parts(words[key], values[key])]
        name = f"{sweep}/{','.join(pairs)}"
        rest = [override for override in job if not override.startswith("name=")]
        if name in found:
            raise ValueError(
                f"sweep {sweep}: every run needs its own name, but two runs would be named {name}; "
                f"use two sweeps with different values of {swept}"
            )
        found[name] = [*rest, f"name='{name}'"]
    return list(found.items())


def parts(word: str, value: str) -> list[str]:
    """The parts `key=value` of a run's name for a swept key; a mapping gives one per inner key."""
    parsed = OverridesParser.create().parse_override(f"key={value}").value()
    return [f"{key}={SPECIAL.sub('_', text)}" for key, text in leaves(word, parsed)]


def leaves(word: str, value: Any) -> Iterator[tuple[str, str]]:
    """(last word of the key, value as text) of every leaf of a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(str(key), inner)
    elif isinstance(value, QuotedString):
        yield word, value.text
    elif isinstance(value, list):
        yield word, "x".join(text for one in value for _, text in leaves(word, one))
    elif value is None or isinstance(value, bool):
        yield word, "null" if value is None else str(value).lower()
    else:
        yield word, str(value)


def _words(keys: Sequence[str]) -> dict[str, str]:
    """Each key's shortest unique ending; for a config group, the group's name."""
    bare = {key: key.lstrip("+").partition("@")[0].replace("/", ".") for key in keys}
    words = short(list(bare.values()))
    return {key: words[path] for key, path in bare.items()}
