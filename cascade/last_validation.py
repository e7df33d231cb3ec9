"""The last validation of a run in one line, and what it means."""

import math
from collections.abc import Mapping


def in_words(figures: Mapping[str, float], *, after_stage: bool) -> str:
    """The validation loss, and the PSNR of a super-resolution stage beside interpolation's.

    `after_stage`: a bundle of the previous stage made the low resolution (stage.train.low_from).
    """
    made = "the previous stage's output" if after_stage else "the low resolution, noised"
    starts = {"made": made, "true": "the true low resolution"}
    parts = []
    if "val/loss" in figures:
        parts.append(f"loss {figures['val/loss']:.4g}")
    gains = []
    for start, words in starts.items():
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
