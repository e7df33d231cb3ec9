"""A folder for a bare GPU machine: wheels that it lacks, and ready clips; not collected by pytest.

    PYTHONPATH=. python tests/gpu/carry.py FOLDER [--python 3.12] [--clips 512]

The machine has PyTorch and PyTorch Lightning, and no access to a package registry. The wheels have
the versions of this environment, for CPython on x86-64 Linux. The clips are shards of
`data=shapes128` with their index. It prints the folder's size, which must stay below 64 MiB, and
the command to run there.
"""

import argparse
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from cascade.grid import Grid
from data.index.sidecar import ensure_index
from data.worlds.world_shards import make_shapes

#: What Cascade imports to train, and such a machine lacks.
PACKAGES = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "webdataset", "braceexpand", "av")
#: The only package of these without a wheel; it is built here, in Python alone.
SOURCES = ("antlr4-python3-runtime",)
GLIBC = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
LIMIT = 64 * 2**20
COMMAND = """\
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site \
{folder}/wheels/*.whl && PYTHONPATH=/tmp/site:. PYTHONUNBUFFERED=1 \
python3 tests/gpu/all.py --out $OUT --minutes 8 --clips {folder}/clips"""


def wheels(folder: Path, python: str) -> None:
    """Download or build the wheels of this environment's versions."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    platforms = [word for name in GLIBC for word in ("--platform", f"{name}_x86_64")]
    wanted = [f"{name}=={version(name)}" for name in PACKAGES if name not in SOURCES]
    subprocess.run(
        [
            *(*pip, "download", "--no-deps", "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", python, *platforms, "--dest", str(folder), *wanted),
        ],
        check=True,
    )
    built = [f"{name}=={version(name)}" for name in SOURCES]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), *built],
        check=True,
    )


def clips(folder: Path, count: int) -> None:
    """Make the shards of `data=shapes128` with fewer clips, and their index beside them."""
    grid = Grid(frames=32, height=128, width=128, fps=16)
    make_shapes(folder, clips=count, grid=grid, shard_size=64)
    ensure_index(
        sorted(map(str, folder.glob("*.tar"))),
        depth="keyframes",
        index_dir=None,
        cache_dir=folder,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--clips", type=int, default=512)
    options = parser.parse_args()
    shutil.rmtree(options.folder / "wheels", ignore_errors=True)  # two versions stop pip
    wheels(options.folder / "wheels", options.python)
    clips(options.folder / "clips", options.clips)
    size = 0
    for path in sorted(p for p in options.folder.rglob("*") if p.is_file()):
        size += path.stat().st_size
        sys.stdout.write(f"{path.stat().st_size / 2**20:8.2f} MiB  {path}\n")
    sys.stdout.write(f"{size / 2**20:8.2f} MiB of at most {LIMIT / 2**20:g}\n\n")
    if size > LIMIT:
        raise SystemExit(f"carry: {options.folder} is too large; carry fewer --clips")
    sys.stdout.write(COMMAND.format(folder=options.folder) + "\n")


if __name__ == "__main__":
    main()
