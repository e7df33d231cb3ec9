"""Metric names, the same in all stages, shared by logging and by the comparison of runs.

At every logging interval, with the number of the step that ended it:

    train/loss                        of that step: mean over its micro batches and all ranks
    train/relative_loss               of the interval: loss / loss of a network that outputs zero
    train/lr                          learning rate of the optimizer's first parameter group
    train/loss_logsnr/<low>_<high>    mean over the interval, by the drawn log-SNR (nats)
    train/loss_mode/<way>             by way to prompt: text, image, first_last, …
    train/loss_bucket/<f>x<h>x<w>     by clip shape; <f>f if a plan has more shapes than max_buckets
    train/grad_norm                   of that step, before clipping
    train/skipped                     steps that the guard has skipped so far
    throughput/steps_per_s            of training alone: without validation, samples, checkpoints
    throughput/clips_per_s
    throughput/tflop_per_s            of the network, forward and backward, summed over ranks
    throughput/mfu                    model FLOPs utilisation: tflop_per_s / peak of all devices;
                                      recomputation by activation checkpointing is not counted
    throughput/wait_share             share of the time spent waiting for data, on the worst rank
    throughput/memory_gib             highest of all ranks: allocated on a GPU, resident on a CPU

At every validation, of the averaged weights, on held-out clips with fixed random draws:

    val/loss
    val/relative_loss                 loss / loss of a network that outputs zero
    val/<name>                        the stage's own metrics: true/psnr, made/plain_ssim, …
    val/worth/<condition>             worth of a condition: the relative increase of the loss when
                                      it is taken from another clip (`given`: removed)
    val/worth_nothing/<condition>     the number of latest validations in a row in which replacing
                                      the condition had no effect

A run also writes `losses.jsonl`, the mean loss per log-SNR bin × bucket × way since the previous
validation (in W&B the table `losses`); `spikes.jsonl`, the skipped steps and their samples (table
`spikes`); and `samples/<step>/` (videos `samples`).
"""

from collections.abc import Sequence
from itertools import pairwise

LOSS = "train/loss"
RELATIVE = "train/relative_loss"
LR = "train/lr"
GRAD_NORM = "train/grad_norm"
SKIPPED = "train/skipped"
THROUGHPUT = tuple(
    f"throughput/{name}"
    for name in (
        *("steps_per_s", "clips_per_s", "tflop_per_s", "mfu"),
        *("wait_share", "memory_gib"),
    )
)


def logsnr_bins(edges: Sequence[float]) -> list[str]:
    """Names of the bins between sorted edges, below the first edge and above the last."""
    ends = [float("-inf"), *edges, float("inf")]
    return [f"{low:g}_{high:g}" for low, high in pairwise(ends)]


def by_logsnr(bin_name: str) -> str:
    """The loss in one log-SNR bin."""
    return f"train/loss_logsnr/{bin_name}"


def by_mode(way: str) -> str:
    """The loss of clips prompted in one way."""
    return f"train/loss_mode/{way}"


def by_bucket(bucket: str) -> str:
    """The loss of clips of one shape."""
    return f"train/loss_bucket/{bucket}"


def worth(condition: str) -> str:
    """The worth of a condition: the relative increase of the loss without it."""
    return f"val/worth/{condition}"


def worth_nothing(condition: str) -> str:
    """The number of validations in a row in which a condition had no effect."""
    return f"val/worth_nothing/{condition}"
