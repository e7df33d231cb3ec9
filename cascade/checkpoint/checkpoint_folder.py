"""Checkpoints as folders: `checkpoints/<step:08d>/` with the state's files and `manifest.json`.

A folder is written under a hidden name, brought to the disk, and renamed: it is there whole or not
at all. What was damaged since is found by sizes and checksums, each file by one rank.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl

from cascade.checkpoint import agree
from cascade.checkpoint.manifest import Manifest, ManifestError
from cascade.files.atomic import replacing
from cascade.parallel import ranks

log = logging.getLogger(__name__)

CHECKPOINTS, MANIFEST, STATE = "checkpoints", "manifest.json", "state"


class CheckpointError(ValueError):
    """Checkpoints that cannot be gone on from, with the reason and the way out."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimizer steps behind it."""
        return self.manifest.step

    @property
    def state(self) -> Path:
        """What the strategy wrote: a file, or a folder of shards."""
        return self.folder / STATE


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / CHECKPOINTS / f"{step:08d}"


def folders(run: Path) -> list[Path]:
    """The run's checkpoints, whole or not, newest first."""
    found = (run / CHECKPOINTS).glob("*")
    return sorted((p for p in found if re.fullmatch(r"\d{8,}", p.name)), reverse=True)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        ManifestError: it is missing, damaged, or of another step than the folder's name says.
    """
    try:
        manifest = Manifest.loads((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ManifestError(f"cannot be read ({error.strerror})") from error
    if manifest.step != int(folder.name):
        raise ManifestError(f"is of step {manifest.step}")
    return manifest


def manifests(run: Path) -> list[Manifest]:
    """Those of the run's checkpoints that can be read, newest first."""
    found: list[Manifest] = []
    for folder in folders(run):
        with contextlib.suppress(ManifestError):
            found.append(read_manifest(folder))
    return found


def hashed(path: Path, *, sync: bool = False) -> tuple[int, str]:
    """Size and SHA-256 of a file; with `sync` it is also on the disk then."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return file.tell(), digest


def describe(part: Path, known: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Size and checksum of every file of a folder; each rank reads its share of the unknown.

    Raises:
        OSError: on all ranks, where the disk failed one of them.
    """
    names = sorted(str(p.relative_to(part)) for p in part.rglob("*") if p.is_file())
    rank, world = ranks.share()
    mine, failed = dict(known), None
    try:
        mine |= {n: hashed(part / n, sync=True) for n in names[rank::world] if n not in known}
    except OSError as error:  # a network's file system tells of a quota here
        failed = error
    every = ranks.gather((mine, failed))
    for _, told in every:
        if told is not None:
            raise told
    return {n: v for one, _ in every for n, v in one.items() if n in names}


def damages(folder: Path) -> list[str]:
    """What is wrong with a checkpoint, found by all ranks together; empty where it is whole."""
    try:
        files = read_manifest(folder).files
    except ManifestError as error:
        return ranks.gather([f"{MANIFEST} {error}"])[0]
    rank, world = ranks.share()
    found: list[str] = []
    for i, (name, (size, digest)) in enumerate(sorted(files.items())):
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != size:
            found.append(f"{name} has {path.stat().st_size:,} bytes of {size:,}")
        elif i % world == rank and (now := hashed(path)[1]) != digest:
            found.append(f"{name} has checksum {now[:12]}…, was written with {digest[:12]}…")
    return list(dict.fromkeys(one for part in ranks.gather(found) for one in part))


def newest(run: Path) -> Checkpoint | None:
    """The run's newest whole checkpoint; none at a run's start.

    Raises:
        CheckpointError: there are checkpoints, but none of them is whole.
    """
    found = folders(run)
    damaged: list[Path] = []
    for folder in found:
        wrong = damages(folder)
        if not wrong:
            set_aside(damaged)
            return Checkpoint(folder, read_manifest(folder))
        damaged.append(folder)
        log.warning(
            "checkpoint %s is damaged: %s; the one before it counts", folder, "; ".join(wrong)
        )
    if found:
        raise CheckpointError(
            f"{run}: none of the checkpoints {', '.join(p.name for p in reversed(found))} is "
            f"whole; bring a copy back, or remove {run / CHECKPOINTS} to start from step 0"
        )
    return None


def set_aside(damaged: Iterable[Path]) -> None:
    """Rename damaged checkpoints, once another counts: they are in the way of no rule then."""
    if ranks.share()[0] == 0 and ranks.is_first():
        for folder in damaged:
            folder.rename(folder.with_name(f"{folder.name}.{secrets.token_hex(2)}.damaged"))


def choose(trainer: pl.Trainer, run: Path) -> Checkpoint | None:
    """The checkpoint that all ranks go on from; each file is verified by one of them."""
    told = agree.told(trainer)
    if told is not None:
        return Checkpoint(Path(told), read_manifest(Path(told))) if told else None
    agree.meet(trainer)
    found = newest(run)
    steps = ranks.gather(None if found is None else found.step)
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"{run}: the ranks see different checkpoints: {steps}; a run's folder must be on a "
            "file system that all nodes share"
        )
    agree.tell(trainer, None if found is None else found.folder)
    return found


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Give a folder its manifest, or another."""
    with replacing(folder / MANIFEST) as part, part.open("wb") as file:
        file.write(manifest.dumps())
        file.flush()
        os.fsync(file.fileno())


def publish(part: Path, folder: Path, manifest: Manifest) -> None:
    """Give a part its manifest and its name."""
    write_manifest(part, manifest)
    for inner in [part, *(p for p in part.rglob("*") if p.is_dir())]:
        sync_folder(inner)
    if folder.exists():
        remove([folder])  # a damaged one, else the run would have gone on from it
    part.rename(folder)
    sync_folder(folder.parent)


def remove(unwanted: Iterable[Path]) -> None:
    """Take checkpoints away: first their names, so that none is ever there in part."""
    for folder in unwanted:
        gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def clear_parts(run: Path) -> None:
    """Remove what a killed leg was writing or removing; the run must be this process's alone."""
    for path in (run / CHECKPOINTS).glob(".*"):
        if path.name.endswith((".part", ".gone")):
            shutil.rmtree(path, ignore_errors=True)
