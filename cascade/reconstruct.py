"""Write a bundle of another EMA width: `python -m cascade.reconstruct run=… width=…`.

The averaged weights are combined from the run's snapshots; everything else is copied from the run's
bundle.
"""

import logging
from pathlib import Path

from omegaconf import DictConfig

from cascade.bundle import read_card, read_stage, read_weights, save_bundle
from cascade.callbacks.averages import SNAPSHOTS
from cascade.entry import command
from cascade.posthoc import reconstruct

log = logging.getLogger(__name__)


def write_bundle(run: Path, width: float, to: Path) -> Path:
    """Write the bundle of a finished run with weights averaged at another width.

    The new card has no figures, because they were measured with other weights.

    Raises:
        ValueError: the run is not finished, `to` exists, the width cannot be reconstructed, or the
            snapshots and the bundle are of different networks.
    """
    if not (run / "bundle").is_dir():
        raise ValueError(f"{run}: has no bundle; finish the run first: repeat its training command")
    if to.exists():
        raise ValueError(f"{to} exists; remove it, or set another folder: to=…")
    stage, card = read_stage(run / "bundle"), read_card(run / "bundle")
    weights = read_weights(run / "bundle")
    averages, fit = reconstruct(run / SNAPSHOTS, width, card["steps"])
    wrong = [n for n, v in averages.items() if n not in weights or weights[n].shape != v.shape]
    if wrong:
        raise ValueError(
            f"{run}: snapshots and bundle are of different networks: {wrong[0]} is "
            f"{list(averages[wrong[0]].shape)} in the snapshots, "
            f"{list(weights[wrong[0]].shape) if wrong[0] in weights else 'missing'} in the bundle"
        )
    card |= {"sigma_rel": width, "profile_error": fit.error, "figures": {}}
    save_bundle(to, stage=stage, weights=weights | averages, card=card)
    log.info("%s: width %g, profile error %.2g", to, width, fit.error)
    return to


@command("reconstruct")
def main(cfg: DictConfig) -> None:
    """The command line."""
    write_bundle(Path(cfg.run), float(cfg.width), Path(cfg.to))


if __name__ == "__main__":
    main()
