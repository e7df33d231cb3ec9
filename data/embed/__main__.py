"""The command line: `python -m data.embed shards=… encoder=…`; it can be resumed."""

import shutil
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from cascade.entry import command
from cascade.progress import SteadyProgress
from cascade.text.embeddings import SUFFIX
from data.embed.embedder import Embedder, embeddings_path
from data.index.sidecar import ensure_index
from data.shards.caption import Captions
from data.shards.store import find_shards


def check_disk(left: dict[Path, int]) -> None:
    """Check that the disks have room for the embeddings.

    Raises:
        ValueError: one has not, with both sizes.
    """
    wanted: dict[int, int] = {}
    for folder, size in left.items():
        device = folder.stat().st_dev
        wanted[device] = wanted.get(device, 0) + size
    for folder in left:
        size, free = wanted[folder.stat().st_dev], shutil.disk_usage(folder).free
        if size > free:
            raise ValueError(
                f"embeddings: the disk of {folder} needs {size / 1e9:.3g} GB but has "
                f"{free / 1e9:.3g} GB left; free some space, or put the embeddings elsewhere with "
                "index_dir=…"
            )


def embed(cfg: DictConfig) -> None:
    """Make all embeddings of a config."""
    console, shards = Console(), find_shards(cfg.shards)
    device = cfg.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    embedder = Embedder(
        encoder=cfg.encoder,
        captions=Captions(**cfg.captions),
        max_tokens=cfg.max_tokens,
        dtype=cfg.dtype,
        download=cfg.download,
        device=device,
        batch_tokens=cfg.batch_tokens,
        replace=cfg.replace,
    )
    index_dir = None if cfg.index_dir is None else Path(cfg.index_dir)
    indices = ensure_index(shards, index_dir=index_dir, cache_dir=Path(cfg.cache_dir))
    found = embedder.forecast(shards, indices)
    todo = sum(found.left.values())
    console.print(
        f"{found.texts:,} captions in {len(shards)} shards, {found.tokens:,} tokens of width "
        f"{embedder.text.width}: {found.bytes / 1e9:.3g} GB, of which {todo / 1e9:.3g} GB are left "
        f"to write; {found.cut:,} captions are truncated at {cfg.max_tokens} tokens"
    )
    check_disk(found.left)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with SteadyProgress(*columns, console=console) as progress:
        for shard, index in zip(shards, indices, strict=True):
            work = embedder.work(shard, index)
            if work is not None:
                embedder.make(work, progress=progress)
            embedder.share(embeddings_path(index), found.shared)
    console.print(
        f"{len(shards)} files *{SUFFIX}, encoder {embedder.made.fingerprint}; to train with them, "
        f"set stage.text.embeddings=<their folder>"
    )


@command("embeddings")
def main(cfg: DictConfig) -> None:
    """The command line."""
    try:
        embed(cfg)
    except KeyboardInterrupt:
        raise SystemExit("stopped; run the same command again to continue") from None


if __name__ == "__main__":
    main()
