"""Many sampling requests in one file: all are checked before the first is sampled.

- {prompt: a red ball moves left, seed: 1}
- {prompt: a blue cross, image: first.png, num_frames: 32}

An entry has keys of conf/sample.yaml, which replace those of the command.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from cascade import values
from cascade.command_values import COMMANDS
from cascade.files.text import read_list
from cascade.opening import open_cascade
from cascade.pipeline import Cascade
from cascade.sample_record import literal, restored
from cascade.sample_request import Asked, Request, ask, check

log = logging.getLogger(__name__)
#: Keys of the command that an entry cannot have.
OWN = ("batch", "part", "parts", "cascade", "paths", "cluster")


class Cascades:
    """Opens the cascades of requests, each of them once."""

    def __init__(self) -> None:
        self._open: dict[Any, Cascade] = {}

    def of(self, asked: Asked) -> Cascade:
        """The cascade of a request.

        Raises:
            ValueError: the device cannot be used, or the stages do not match.
            BundleError: a bundle is damaged.
        """
        cfg = asked.cfg
        paths = tuple(str(Path(bundle).absolute()) for bundle in asked.bundles)
        key = (paths, str(asked.sampling), cfg.device, cfg.dtype, cfg.offload)
        if key not in self._open:
            self._open[key] = open_cascade(cfg, offload=cfg.offload)
        return self._open[key]


def load_batch(path: str) -> list[Mapping[str, Any]]:
    """The entries of a YAML or JSON file.

    Raises:
        ValueError: it cannot be read, or is not a list of mappings.
    """
    entries = read_list(path, who="batch")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"batch={path}: entry {number}: must be a mapping of keys of conf/sample.yaml, "
                f"such as {{prompt: …, seed: 1}}, got {entry!r:.60}"
            )
    return entries


def entry_config(cfg: DictConfig, entry: Mapping[str, Any], typed: Sequence[str]) -> DictConfig:
    """The config of an entry: the command's, with the entry's keys instead of its own.

    A prompt replaces the command's timeline, and a timeline its prompt.

    Raises:
        ValueError: an entry's key does not exist or belongs to the command, or a value is invalid.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in entry:
        if key in OWN:
            raise ValueError(
                f"{key}: is of the whole command; type {key}=… there (an entry may name a cascade "
                "by bundle:)"
            )
        if key not in plain:
            raise ValueError(f"{key}: no such key; there are {', '.join({*plain} - {*OWN})}")
    for key, other in (("prompt", "timeline"), ("timeline", "prompt")):
        if entry.get(key) is not None and other not in entry:
            plain[other] = None
    plain |= {key: literal(value) for key, value in entry.items()}
    own = OmegaConf.create({**plain, "batch": None})
    OmegaConf.set_struct(own, True)
    own = restored(own, [*typed, *(f"{key}=" for key in entry)])
    values.check(own, COMMANDS["sample"])
    return own


def check_batch(cfg: DictConfig, typed: Sequence[str]) -> dict[int, Request]:
    """The requests of this command's part of a batch, by number; those that are made already not.

    Raises:
        ValueError: an entry has a fault, with its number, or two make the same video.
    """
    if cfg["from"] is not None:
        raise ValueError("batch and from: write from: in the entries that need it")
    asked: dict[int, Asked] = {}
    owners: dict[Path, int] = {}
    for number, entry in enumerate(load_batch(cfg.batch), 1):
        with _numbered(cfg.batch, number):
            asked[number] = ask(entry_config(cfg, entry, typed))
            for path in asked[number].paths:
                if (other := owners.setdefault(path.absolute(), number)) != number:
                    raise ValueError(f"makes the same video as entry {other}: {path}")
    cascades, requests = Cascades(), {}
    for number in [*asked][cfg.part :: cfg.parts]:
        with _numbered(cfg.batch, number):
            if asked[number].missing:
                requests[number] = check(asked[number], cascades.of(asked[number]))
    return requests


def run_batch(batch: str, requests: Mapping[int, Request], run: Callable[[Request], None]) -> None:
    """Run all requests; one that fails does not end the others.

    Raises:
        SystemExit: with the entries that failed, and why.
    """
    failed = {}
    for place, (number, request) in enumerate(requests.items(), 1):
        log.info("batch=%s: entry %d (%d of %d)", batch, number, place, len(requests))
        try:
            run(request)
        except Exception as error:  # such as no memory left, or a full disk
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                log.exception("entry %d", number)
            failed[number] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            log.error("batch=%s: entry %d FAILED: %s", batch, number, failed[number])
        if number in failed and torch.cuda.is_available():
            torch.cuda.empty_cache()
    if failed:
        why = "\n".join(f"error: batch={batch}: entry {n}: {text}" for n, text in failed.items())
        raise SystemExit(
            f"{why}\nerror: {len(failed)} of {len(requests)} requests failed; "
            "the same command makes what is missing"
        )


@contextlib.contextmanager
def _numbered(batch: str, number: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"batch={batch}: entry {number}: {error}") from error
