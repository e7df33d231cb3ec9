"""What a resume logs and does after each kind of damage to a run's checkpoints: a script.

    python tests/cascade/checkpoint/damages.py FOLDER [--cases "one bit of the newest" …]

One run is stopped half way; a copy of it is damaged in one way and resumed by the same command. A
resumed run must end with the uninterrupted run's metrics and state, bit for bit.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cascade.checkpoint.checkpoint_folder import folder_of, hashed, read_manifest, write_manifest
from data.worlds.world_shards import make_shapes
from tests.cascade.checkpoint.legs import rows, run_of, start, unlike

STEPS, STOP = 12, 6
OVERRIDES = (
    *(f"shrink.steps={STEPS}", "callbacks.checkpoint.every_n_steps=2"),
    *("callbacks.samples.every_n_steps=100", "trainer.val_check_interval=4"),
)


def cut(path: Path) -> None:
    """Half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit of the byte in a file's middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def spoil(folder: Path) -> None:
    """Other weights with right checksums: only the probe can find this."""
    path = folder / "state"
    state = torch.load(path, weights_only=True)
    for weight in state["state_dict"].values():
        if weight.is_floating_point():
            weight.mul_(1 + 1e-4)
    torch.save(state, path)
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, files={"state": hashed(path)}))


def nothing(run: Path) -> None:
    """No damage: other overrides must be refused."""


def newest_of(run: Path) -> Path:
    """The folder of the newest checkpoint."""
    return folder_of(run, STOP)


Damage = Callable[[Path], None]
#: Name → what is done to the run's folder, and further overrides.
CASES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "nothing": (nothing, ()),
    "newest cut in half": (lambda run: cut(newest_of(run) / "state"), ()),
    "one bit of the newest": (lambda run: flip(newest_of(run) / "state"), ()),
    "one bit of its manifest": (lambda run: flip(newest_of(run) / "manifest.json"), ()),
    "its manifest removed": (lambda run: (newest_of(run) / "manifest.json").unlink(), ()),
    "its state removed": (lambda run: (newest_of(run) / "state").unlink(), ()),
    "the newest removed": (lambda run: shutil.rmtree(newest_of(run)), ()),
    "all damaged": (lambda run: [flip(p) for p in run.glob("checkpoints/*/state")] and None, ()),
    "other weights, right checksums": (lambda run: spoil(newest_of(run)), ()),
    "another width": (nothing, ("stage.net.patch=[2,8,8]",)),
    "another config, no config.json": (
        lambda run: (run / "config.json").unlink(),
        ("stage.diffusion.schedule.logsnr_shift=0",),
    ),
    "another seed": (nothing, ("seed=1",)),
    "another data set": (nothing, ()),
}
FULL = "disk full, then not"


def said(log: Path, begin: int) -> str:
    """The warnings and errors in a log, without paths."""
    text = log.read_bytes()[begin:].decode(errors="replace")
    lines = [
        line
        for line in text.splitlines()
        if re.search(
            r"damaged|error|refused|trained with|differ|→|intact|probe|fingerprint|No space", line
        )
        and "INFO" not in line
    ]
    return re.sub(r"/\S*/", "", " | ".join(line.strip() for line in lines))[:600]


def full_disk(folder: Path, wanted: Any, state: Any) -> dict[str, Any] | None:
    """A run on a disk with space for two checkpoints but not three; None without root.

    The run ends after three failed saves in a row; the disk then grows, and the run resumes.
    """
    disk = folder / "disk"
    disk.mkdir()
    size = 1.4 * sum(hashed(p)[0] for p in run_of(folder, "stopped").glob("checkpoints/*/state"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(size)}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return None
    try:
        first = folder / "first"
        (disk / "shards").symlink_to(first if first.exists() else folder / "shards")
        code = os.waitpid(start(disk, "full", *OVERRIDES), 0)[1]
        there = [path.name for path in sorted(run_of(disk, "full").glob("checkpoints/*"))]
        output = said(disk / "full.log", 0)
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        again = os.waitpid(start(disk, "full", *OVERRIDES), 0)[1]
        result = f"{code}, then {again}"
        if code and not again:
            result = judged(run_of(disk, "full"), wanted, state)
        return {"result": result, "said": output, "there": there}
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def judged(run: Path, wanted: Any, state: Any) -> str:
    """Whether a run ended as the uninterrupted one."""
    last = torch.load(folder_of(run, STEPS) / "state", weights_only=True)
    other = [line for line in unlike(state, last) if "val_loop." not in line]
    got = rows(run)
    other += [f"{key}: {got.get(key)}" for key in wanted if got.get(key) != wanted[key]]
    return "ended as the uninterrupted run, bit for bit" if not other else f"ended: {other[:3]}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="*", default=[*CASES, FULL])
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    make_shapes(folder / "shards", clips=24, shard_size=24)
    make_shapes(folder / "others", clips=24, shard_size=24, seed=1)
    assert os.waitpid(start(folder, "whole", *OVERRIDES), 0)[1] == 0
    whole = run_of(folder, "whole")
    wanted = rows(whole)
    state = torch.load(folder_of(whole, STEPS) / "state", weights_only=True)
    stop = f"+callbacks.stop={{_target_: tests.cascade.checkpoint.legs.StopAt, step: {STOP}}}"
    assert os.waitpid(start(folder, "stopped", *OVERRIDES, stop), 0)[1] == 0

    table = {}
    for number, (case, (damage, overrides)) in enumerate(CASES.items()):
        if case not in given.cases:
            continue
        name = f"case{number}"
        run = run_of(folder, name)
        shutil.copytree(run_of(folder, "stopped"), run)
        damage(run)
        if case == "another data set":
            overrides = (*overrides, f"data.shards={folder / 'shards'}")
            (folder / "shards").rename(folder / "first")
            (folder / "others").rename(folder / "shards")
        code = os.waitpid(start(folder, name, *OVERRIDES, *overrides), 0)[1]
        result = "refused" if code else judged(run, wanted, state)
        left = sorted(path.name for path in run.glob("checkpoints/*"))
        table[case] = {"result": result, "said": said(folder / f"{name}.log", 0), "there": left}
    full = full_disk(folder, wanted, state) if FULL in given.cases else None
    table |= {} if full is None else {FULL: full}
    sys.stdout.write(json.dumps(table, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
