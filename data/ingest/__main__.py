"""The command line: `python -m data.ingest from=… to=…`; the same command continues."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from cascade.entry import command
from data.ingest.recipe import Recipe
from data.ingest.run import make_shards

_SECTIONS = ("shots", "windows", "encoding", "measures", "filters", "packing")


@command("shards")
def main(cfg: DictConfig) -> None:
    """Make the shards of a config; after an interruption the same command continues."""
    try:
        make_shards(
            str(cfg["from"]),
            None if cfg.to is None else Path(cfg.to),
            Recipe(**{name: instantiate(cfg[name]) for name in _SECTIONS}),
            instantiate(cfg.cluster.shards, _convert_="all"),
            instantiate(cfg.run),
            instantiate(cfg.columns),
        )
    except KeyboardInterrupt as stop:
        raise SystemExit("stopped; run the same command again to continue") from stop
    except OSError as error:
        raise SystemExit(
            f"error: {error}; fix this, then run the same command again to continue"
        ) from error


if __name__ == "__main__":
    main()
