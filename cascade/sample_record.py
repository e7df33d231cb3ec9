"""The record of a sampled video, in its metadata: what made it, and how to make it again."""

import functools
import hashlib
import logging
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from cascade.bundle import CARD, STAGE, WEIGHTS
from cascade.conditioning import source_names
from cascade.video import read_metadata

log = logging.getLogger(__name__)
FORMAT = 1
#: Keys of conf/sample.yaml on which a video does not depend, besides its seed and number.
ASIDE = (
    *("seed", "num_videos", "first", "out", "format", "device", "offload", "overwrite"),
    *("from", "same", "paths", "run", "bundle", "cascade"),
    *("memory", "window", "tile", "batch_size", "keep"),
    *("batch", "part", "parts", "cluster"),
)
#: Keys that `from` takes from the record in addition to those on which the video depends.
NAMED = ("seed", "format", "run", "bundle", "cascade")
AGAIN = "same=false makes the video with what is there now"


def fingerprint(path: str | Path) -> str:
    """The hash of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def fingerprints(bundles: Sequence[str | Path]) -> list[dict[str, str]]:
    """Per bundle, the hash of each of its files; each is read once for all requests of a batch."""
    parts = (STAGE, CARD, WEIGHTS)
    return [
        {
            part: _of_bundle(file, _version(file))
            for part in parts
            if (file := Path(one) / part).is_file()
        }
        for one in bundles
    ]


@functools.lru_cache(maxsize=256)
def _of_bundle(file: Path, _version: tuple[int, ...]) -> str:
    return fingerprint(file)


def _version(file: Path) -> tuple[int, ...]:
    """What changes with a file's content."""
    stat = file.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def record_of(
    values: Mapping[str, Any],
    *,
    bundles: Sequence[str | Path],
    sampling: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a request's videos depend on, besides their seed and number, and how it was named."""
    sources = {
        name: found for name in source_names() if (found := _content(values.get(name))) is not None
    }
    return {
        "format": FORMAT,
        "request": {name: value for name, value in values.items() if name not in ASIDE},
        "named": {name: values.get(name) for name in NAMED},
        "sources": sources,
        "bundles": fingerprints(bundles),
        "sampling": list(sampling),
        "made_by": {
            "cascade": version("cascade"),
            "torch": torch.__version__,
            "machine": platform.machine(),
        },
    }


def _content(source: Any) -> str | list[str] | None:
    """The hash of a source, or of each of two; None unless it is a file."""
    if isinstance(source, list):
        each = [found for one in source if isinstance(found := _content(one), str)]
        return each if each and len(each) == len(source) else None
    return fingerprint(source) if isinstance(source, str) and Path(source).is_file() else None


def is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    """Whether two videos' records are of the same video; versions and names may differ."""
    aside = ("made_by", "named")
    kept = {name: value for name, value in (one or {}).items() if name not in aside}
    wanted = {name: value for name, value in other.items() if name not in aside}
    return kept == wanted and (one or {})["named"]["seed"] == other["named"]["seed"]


def read_record(path: str | Path) -> dict[str, Any]:
    """The record in a video's metadata.

    Raises:
        ValueError: the file cannot be read, or has no record of this format.
    """
    found = (read_metadata(path) or {}).get("cascade")
    if not isinstance(found, dict):
        raise ValueError(
            f"from={path}: has no metadata of Cascade, so it cannot be made again; programs that "
            "convert a video remove it: name the file that make sample wrote"
        )
    if found.get("format") != FORMAT:
        raise ValueError(
            f"from={path}: its metadata has format {found.get('format')!r}, but this Cascade reads "
            f"format {FORMAT}; type the request again"
        )
    wrong = [name for name in ("request", "named", "sources") if not _is_mapping(found.get(name))]
    if wrong or not isinstance(found.get("bundles"), list):
        raise ValueError(f"from={path}: its metadata is damaged: {', '.join(wrong) or 'bundles'}")
    return found


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def restored(cfg: DictConfig, typed: Sequence[str]) -> DictConfig:
    """The config of the video `from`; the keys that are typed beside it win, which is said.

    Raises:
        ValueError: the video has no record.
    """
    if cfg["from"] is None:
        return cfg
    record = read_record(cfg["from"])
    named = {key.lstrip("+~").partition("=")[0].partition(".")[0] for key in typed}
    then = {**record["request"], **record["named"], "first": record.get("number", 0)}
    made = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(made, dict)
    for key, value in then.items():
        if key not in made:
            raise ValueError(
                f"from={cfg['from']}: it was made with {key}={value!r}, a key that this Cascade "
                "does not have; type the request again"
            )
        if key not in named:
            made[key] = literal(value)
        elif key in cfg and not OmegaConf.is_missing(cfg, key) and cfg[key] != value:
            log.info("from=%s: %s=%s is used, not %s", cfg["from"], key, cfg[key], value)
    again = OmegaConf.create(made)
    OmegaConf.set_struct(again, True)
    return again


def literal(value: Any) -> Any:
    """A value without interpolations: `${` in a prompt is text."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    if isinstance(value, dict):
        return {name: literal(one) for name, one in value.items()}
    return [literal(one) for one in value] if isinstance(value, list) else value


def check_same(values: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that the bundles and sources of the video `from` are those that made it.

    A source of another name than then was typed, so its content may differ.

    Raises:
        ValueError: one of them has other content or is missing; the message has both hashes.
    """
    if values["from"] is None or not values["same"]:
        return
    then, who = read_record(values["from"]), f"from={values['from']}"
    for name, was in then["sources"].items():
        path = values[name]
        if path is None or path != then["request"].get(name):
            continue
        found = now["sources"].get(name)
        if found is None:
            raise ValueError(
                f"{who}: its source {name}={path} is missing; type {name}=… where it is now"
            )
        if found != was:
            raise ValueError(
                f"{who}: its source {name}={path} had the content {was}, and has {found} now; "
                f"type {name}=… of the old file, or {AGAIN}"
            )
    if len(then["bundles"]) != len(now["bundles"]):
        raise ValueError(
            f"{who}: {len(then['bundles'])} stages made it, and the cascade has "
            f"{len(now['bundles'])} now; type bundle=… or run=…, or {AGAIN}"
        )
    if then["sampling"] != now["sampling"]:
        raise ValueError(
            f"{who}: it was made with the stages' settings {then['sampling']}, and they are "
            f"{now['sampling']} now; type cascade=…, or {AGAIN}"
        )
    for number, (was, found) in enumerate(zip(then["bundles"], now["bundles"], strict=True)):
        for part in sorted({*was, *found}):
            if was.get(part) != found.get(part):
                raise ValueError(
                    f"{who}: its stage {number} was made by {part} {was.get(part)}, and the bundle "
                    f"has {found.get(part)} now; type bundle=… or run=… of the old one, or {AGAIN}"
                )


def generators(seed: int, numbers: Sequence[int]) -> list[torch.Generator]:
    """The generators of the videos of these numbers of a seed, whichever others are made."""
    one = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(max(numbers, default=-1) + 1):
        states.append(one.get_state())
        torch.randint(2**62, (1,), generator=one)
    return [torch.Generator().set_state(states[number]) for number in numbers]
