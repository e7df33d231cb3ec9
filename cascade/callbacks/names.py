"""The names of a run's figures, alike in all stages; who compares runs reads them here.

At every logging interval, with the number of the step that ended it:

    train/loss                        of that step, the mean of its micro batches and of all ranks
    train/relative_loss               of the interval, over the loss of a network that answers zero
    train/lr                          of the optimizer's first group
    train/loss_logsnr/<low>_<high>    mean of the interval by the log-SNR that was drawn (nats)
    train/loss_mode/<way>             by way to prompt: text, image, first_last, …
    train/loss_bucket/<f>x<h>x<w>     by the clips' shape; <f>f where a plan has very many
    train/grad_norm                   of that step, before it is clipped
    train/skipped                     steps that the guard has skipped so far
    throughput/steps_per_s            of training alone: without validation, samples, checkpoints
    throughput/clips_per_s
    throughput/tflop_per_s            of the network, both passes, of all ranks
    throughput/mfu                    over the peak of all devices; what checkpointing computes
                                      again is not counted
    throughput/wait_share             of the time, spent waiting for data, on the worst rank
    throughput/memory_gib             highest on any rank: allocated on a GPU, resident on a CPU

At every validation, of the averaged weights, on held-out clips with fixed draws:

    val/loss
    val/relative_loss                 over the loss of a network that answers zero
    val/<figure>                      the stage's own: true/psnr, made/plain_ssim, …
    val/worth/<condition>             how much the loss grows where the condition is another
                                      sample's (`given`: is left out): text, low, given, fps, …
    val/worth_nothing/<condition>     validations in a row up to here that found it worth nothing

Beside the figures a run leaves `losses.jsonl`, the mean loss of each log-SNR bin × bucket × way
since the validation before (in W&B the table `losses`), `spikes.jsonl`, the steps that were skipped
and their samples (table `spikes`), and `samples/<step>/` (videos `samples`).
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
    """The bins between sorted edges, and beyond the first and the last."""
    ends = [float("-inf"), *edges, float("inf")]
    return [f"{low:g}_{high:g}" for low, high in pairwise(ends)]


def by_logsnr(bin_name: str) -> str:
    """The loss in a bin of the log-SNR."""
    return f"train/loss_logsnr/{bin_name}"


def by_mode(way: str) -> str:
    """The loss in a way to prompt."""
    return f"train/loss_mode/{way}"


def by_bucket(bucket: str) -> str:
    """The loss in clips of a shape."""
    return f"train/loss_bucket/{bucket}"


def worth(condition: str) -> str:
    """What a condition is worth."""
    return f"val/worth/{condition}"


def worth_nothing(condition: str) -> str:
    """For how many validations a condition has been worth nothing."""
    return f"val/worth_nothing/{condition}"
