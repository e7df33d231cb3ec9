"""Texts of users: the one way to read a caption, JSON, list or prompts; values to type."""

import codecs
from pathlib import Path
from typing import Any

import yaml

_MARKS = (  # UTF-32's first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def typed(name: str, value: object) -> str:
    """`NAME='value'` as a user types it after make, in a shell's quotes."""
    quoted = str(value).replace("'", "'\\''")
    return f"{name}='{quoted}'"


def read_text(data: bytes) -> str:
    """The text of a file: UTF-8, or what its byte-order mark says; the mark is removed.

    Raises:
        ValueError: it is no such text; the message names the first byte that is not.
    """
    coding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(coding)
    except UnicodeDecodeError as error:
        name = coding.removesuffix("-sig").upper()
        raise ValueError(
            f"is not {name} text: byte {error.start} is 0x{data[error.start]:02x}; save it as UTF-8"
        ) from error


def read_list(path: str, *, who: str) -> list[Any]:
    """The list in a YAML or JSON file; `who` names the setting that it was given as.

    Raises:
        ValueError: it cannot be read, or is no list, or an empty one.
    """
    try:
        entries = yaml.safe_load(read_text(Path(path).read_bytes()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{who}={path}: cannot be read as YAML or JSON ({reason})") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{who}={path}: must be a list, got {entries!r:.60}")
    return entries
