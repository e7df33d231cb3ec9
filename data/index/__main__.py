"""The command line: `python -m data.index shards=… depth=full`; the same command continues."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from cascade.entry import command
from data.index.index_file import read_about
from data.index.sidecar import ensure_index
from data.index.summary import print_summary
from data.shards import store


@command("index")
def main(cfg: DictConfig) -> None:
    """The command line."""
    spec = cast(dict[str, Any], OmegaConf.to_container(cfg))["shards"]
    shards = store.find_shards(spec)
    paths = ensure_index(
        shards,
        depth=cfg.depth,
        index_dir=None if cfg.index_dir is None else Path(cfg.index_dir),
        cache_dir=Path(cfg.cache_dir),
        workers=cfg.workers,
    )
    print_summary(shards, [read_about(path) for path in paths], Console())


if __name__ == "__main__":
    main()
