"""Checkpoints as folders: `checkpoints/<step:08d>/` with the state's files and `manifest.json`.

A folder is written under a hidden name, synced to disk, and renamed, so that it is complete or
absent. Later damage is found by sizes and checksums; each file is verified by one rank.
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
    """A run cannot resume from its checkpoints, or cannot write one."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified to be intact."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """The number of optimizer steps that it has completed."""
        return self.manifest.step

    @property
    def state(self) -> Path:
        """The state that the strategy wrote: a file, or a folder of shards."""
        return self.folder / STATE


def folder_of(run: Path, step: int) -> Path:
    """The path of a step's checkpoint."""
    return run / CHECKPOINTS / f"{step:08d}"


def folders(run: Path) -> list[Path]:
    """The run's checkpoint folders, intact or not, newest first."""
    found = (run / CHECKPOINTS).glob("*")
    return sorted((p for p in found if re.fullmatch(r"\d{8,}", p.name)), reverse=True)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        ManifestError: it is missing, damaged, or its step is not that of the folder's name.
    """
    try:
        manifest = Manifest.loads((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ManifestError(f"cannot be read ({error.strerror})") from error
    if manifest.step != int(folder.name):
        raise ManifestError(f"is of step {manifest.step}, but the folder is named {folder.name}")
    return manifest


def manifests(run: Path) -> list[Manifest]:
    """The readable manifests of the run's checkpoints, newest first."""
    found: list[Manifest] = []
    for folder in folders(run):
        with contextlib.suppress(ManifestError):
            found.append(read_manifest(folder))
    return found


def hashed(path: Path, *, sync: bool = False) -> tuple[int, str]:
    """Size and SHA-256 of a file; `sync` also syncs the file to disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return file.tell(), digest


def describe(part: Path, known: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Size and checksum of every file in a folder; each rank reads its share of those not `known`.

    Raises:
        OSError: on all ranks, if reading or syncing failed on one.
    """
    names = sorted(str(p.relative_to(part)) for p in part.rglob("*") if p.is_file())
    rank, world = ranks.share()
    mine, failed = dict(known), None
    try:
        mine |= {n: hashed(part / n, sync=True) for n in names[rank::world] if n not in known}
    except OSError as error:  # a network file system reports an exceeded quota here
        failed = error
    every = ranks.gather((mine, failed))
    for _, failure in every:
        if failure is not None:
            raise failure
    return {n: v for one, _ in every for n, v in one.items() if n in names}


def damages(folder: Path) -> list[str]:
    """The damages of a checkpoint, found by all ranks together; empty if it is intact."""
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
            found.append(f"{name} has {path.stat().st_size:,} bytes, should have {size:,}")
        elif i % world == rank and (now := hashed(path)[1]) != digest:
            found.append(f"{name} has checksum {now[:12]}…, should have {digest[:12]}…")
    return list(dict.fromkeys(one for part in ranks.gather(found) for one in part))


def newest(run: Path) -> Checkpoint | None:
    """The run's newest intact checkpoint; None at a run's start.

    Raises:
        CheckpointError: there are checkpoints, but none is intact.
    """
    found = folders(run)
    damaged: list[Path] = []
    for folder in found:
        wrong = damages(folder)
        if not wrong:
            set_aside(damaged)
            return Checkpoint(folder, read_manifest(folder))
        damaged.append(folder)
        log.warning("checkpoint %s is damaged: %s; trying the one before", folder, "; ".join(wrong))
    if found:
        raise CheckpointError(
            f"{run}: none of the checkpoints {', '.join(p.name for p in reversed(found))} is "
            f"intact; restore a copy, or remove {run / CHECKPOINTS} to start from step 0"
        )
    return None


def set_aside(damaged: Iterable[Path]) -> None:
    """Rename damaged checkpoints once an intact one is found, so that no rule counts them."""
    if ranks.share()[0] == 0 and ranks.is_first():
        for folder in damaged:
            folder.rename(folder.with_name(f"{folder.name}.{secrets.token_hex(2)}.damaged"))


def choose(trainer: pl.Trainer, run: Path) -> Checkpoint | None:
    """The checkpoint that all ranks resume from; each file is verified by one rank.

    Raises:
        CheckpointError: no checkpoint is intact, or the ranks see different ones.
    """
    inherited = agree.inherited_choice(trainer)
    if inherited is not None:
        return Checkpoint(Path(inherited), read_manifest(Path(inherited))) if inherited else None
    agree.start_process_group(trainer)
    found = newest(run)
    steps = ranks.gather(None if found is None else found.step)
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"{run}: all ranks must see the same checkpoints, but their newest are {steps}; put "
            "the run's folder on a file system that all nodes share"
        )
    agree.publish_choice(trainer, None if found is None else found.folder)
    return found


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest, or replace it."""
    with replacing(folder / MANIFEST) as part, part.open("wb") as file:
        file.write(manifest.dumps())
        file.flush()
        os.fsync(file.fileno())


def publish(part: Path, folder: Path, manifest: Manifest) -> None:
    """Complete a partial checkpoint: write its manifest, sync it, and give it its final name."""
    write_manifest(part, manifest)
    for inner in [part, *(p for p in part.rglob("*") if p.is_dir())]:
        sync_folder(inner)
    if folder.exists():
        remove([folder])  # it is damaged, or the run would have resumed from it
    part.rename(folder)
    sync_folder(folder.parent)


def remove(unwanted: Iterable[Path]) -> None:
    """Remove checkpoints, each renamed first, so that none is ever partly there."""
    for folder in unwanted:
        gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.gone")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def clear_parts(run: Path) -> None:
    """Remove what a killed process was writing or removing; requires the run's lock."""
    for path in (run / CHECKPOINTS).glob(".*"):
        if path.name.endswith((".part", ".gone")):
            shutil.rmtree(path, ignore_errors=True)
