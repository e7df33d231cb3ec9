"""The memory limits of this process's control groups (version 2): Slurm and containers set them."""

from collections.abc import Iterator
from pathlib import Path

GROUPS, MEMBER = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""The groups, and the file that names this process's."""


def limits(root: Path = GROUPS, member: Path = MEMBER) -> Iterator[tuple[Path, int]]:
    """The folder and the limit in bytes of each group that has one, from the innermost on."""
    own = member.read_text().strip().rpartition("::")[2] if member.is_file() else "/"
    group = root / own.lstrip("/")
    for folder in (group, *group.parents):
        limit = folder / "memory.max"
        if limit.is_file() and (most := limit.read_text().strip()) != "max":
            yield folder, int(most)
        if folder == root:
            return


def left(root: Path = GROUPS, member: Path = MEMBER) -> Iterator[int]:
    """The bytes that each group with a limit may still take.

    Cached files count as free: the kernel drops them.
    """
    for folder, most in limits(root, member):
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / "memory.current").read_text()) - int(stat["inactive_file"])
        yield max(most - used, 0)
