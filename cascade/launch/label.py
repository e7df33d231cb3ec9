"""The names of a sweep's runs: `<sweep>/<key=value,…>`, from what is swept alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from cascade.comparison.table import short

#: What a folder's name, a Hydra override and a shell all take as it is.
PLAIN = re.compile(r"[^\w.+-]+")


def named(
    jobs: Sequence[Sequence[str]], *, swept: Sequence[str], sweep: str
) -> list[tuple[str, list[str]]]:
    """Each job's name, and its overrides with that name among them.

    Raises:
        ValueError: two jobs come to the same name.
    """
    words = _words(swept)
    found: dict[str, list[str]] = {}
    for job in jobs:
        values = dict(override.split("=", 1) for override in job)
        told = [part for key in swept for part in parts(words[key], values[key])]
        name = f"{sweep}/{','.join(told)}"
        rest = [override for override in job if not override.startswith("name=")]
        if name in found:
            raise ValueError(f"sweep {sweep}: two runs would be called {name}; sweep {swept} apart")
        found[name] = [*rest, f"name='{name}'"]
    return list(found.items())


def parts(word: str, value: str) -> list[str]:
    """What a swept key adds to a run's name; a value of several keys gives each of them."""
    parsed = OverridesParser.create().parse_override(f"key={value}").value()
    return [f"{key}={PLAIN.sub('_', said)}" for key, said in leaves(word, parsed)]


def leaves(word: str, value: Any) -> Iterator[tuple[str, str]]:
    """(last word of the key, value) of everything inside a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(str(key), inner)
    elif isinstance(value, QuotedString):
        yield word, value.text
    elif isinstance(value, list):
        yield word, "x".join(said for one in value for _, said in leaves(word, one))
    elif value is None or isinstance(value, bool):
        yield word, "null" if value is None else str(value).lower()
    else:
        yield word, str(value)


def _words(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last words, as many as tell it from the others; of a group, its own name."""
    bare = {key: key.lstrip("+").partition("@")[0].replace("/", ".") for key in keys}
    words = short(list(bare.values()))
    return {key: words[path] for key, path in bare.items()}
