"""The trainer settings that a run may combine; all others are refused before the first step.

Every precision, strategy and optimizer that passes is trained in tests (tests/measure/crossed.py).
"""

from collections.abc import Mapping
from typing import Any

#: Precisions in which every stage trains, and what each one is.
PRECISIONS = {
    "32-true": "float32",
    "bf16-mixed": "float32 weights, bfloat16 products",
    "16-mixed": "float32 weights, float16 products and a loss scale, on a GPU",
}
#: Strategies by their names in Lightning; FSDP2 is Cascade's own.
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
FSDP = "cascade.parallel.strategy.FSDP2"


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse a trainer's config with which a stage would not train, or not as it says.

    Raises:
        ValueError: with the rule, the value and the way out.
    """
    precision = str(trainer.get("precision", "32-true"))
    strategy, sharded = _strategy(trainer)
    if precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={precision}: the precisions are {', '.join(PRECISIONS)}; the "
            "weights and their averages stay in float32, since steps below 1/256 of a weight are "
            "lost in bfloat16; set trainer.precision=bf16-mixed"
        )
    if not sharded and strategy not in STRATEGIES:
        raise ValueError(
            f"trainer.strategy={strategy}: the strategies are {', '.join(STRATEGIES)} and {FSDP}; "
            "set trainer=ddp, or trainer=fsdp for a stage that does not fit on one GPU"
        )
    if precision == "16-mixed" and sharded:
        raise ValueError(
            "trainer.precision=16-mixed: sharded training does not scale the loss; "
            "set trainer.precision=bf16-mixed, or trainer=ddp"
        )
    if precision == "16-mixed" and trainer.get("accelerator") == "cpu":
        raise ValueError(
            "trainer.precision=16-mixed: a CPU has no float16 products; "
            "set trainer.precision=bf16-mixed or 32-true"
        )


def check_machine(trainer: Mapping[str, Any], *, cuda: bool) -> None:
    """Refuse a trainer's config that this machine cannot run.

    Raises:
        ValueError: it needs a GPU, and there is none.
    """
    accelerator = trainer.get("accelerator", "auto")
    if accelerator in ("gpu", "cuda") and not cuda:
        raise ValueError(
            f"trainer.accelerator={accelerator}: this machine has no GPU that torch can use; set "
            "trainer=cpu, or install a torch for its driver"
        )
    if trainer.get("precision") == "16-mixed" and not cuda:
        raise ValueError(
            "trainer.precision=16-mixed: this machine has no GPU that torch can use, and a CPU has "
            "no float16 products; set trainer.precision=bf16-mixed or 32-true"
        )


def _strategy(trainer: Mapping[str, Any]) -> tuple[str, bool]:
    """The name of the strategy, and whether it is FSDP2."""
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, Mapping):
        strategy = strategy.get("_target_")
    return str(strategy), strategy == FSDP
