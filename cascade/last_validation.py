"""The last validation of a run in one line, and what it means."""

import math
from collections.abc import Mapping

#: What a super-resolution stage started from, by the name of its metrics.
STARTS = {"made": "the previous stage's output", "true": "the true low resolution"}


def in_words(figures: Mapping[str, float]) -> str:
    """The validation loss, and the PSNR of a super-resolution stage beside interpolation's.

    Without a bundle of the previous stage both starts are the true low resolution.
    """
    parts = []
    if "val/loss" in figures:
        parts.append(f"loss {figures['val/loss']:.4g}")
    gains = []
    for start, words in STARTS.items():
        own, plain = (figures.get(f"val/{start}/{name}") for name in ("psnr", "plain_psnr"))
        if own is not None and plain is not None and math.isfinite(own - plain):
            gains.append(own - plain)
            parts.append(
                f"PSNR {own:.2f} dB from {words}, {abs(own - plain):.2f} dB "
                f"{'above' if own >= plain else 'below'} interpolation"
            )
    if not parts:
        return "last validation: none"
    worse = "; it does not beat interpolation yet: train longer, or see stage.residual"
    return f"last validation: {', '.join(parts)}{worse if gains and min(gains) < 0 else ''}"
