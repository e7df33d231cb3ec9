"""Every shipped stage × precision × optimizer × trainer trains, or is refused with its reason."""

import pytest

from cascade.offered import PRECISIONS, check_machine, check_trainer
from tests.measure import crossed

#: Each refusal begins with the key that a user set.
REFUSED = {
    "bf16-true": "refused: trainer.precision=bf16-true: the precisions are 32-true, bf16-mixed, ",
    "16-mixed": "refused: trainer.precision=16-mixed: ",
}


@pytest.mark.slow
def test_every_recipe_takes_two_steps_or_is_refused_before_the_first(tmp_path):
    """Every pair of two choices; all recipes: python tests/measure/crossed.py FOLDER --all."""
    found = crossed.crossed(tmp_path, crossed.pairwise(), timeout_s=580)
    assert {one.stage for one in found} <= {*crossed.choices("stage")}
    assert {one.trainer for one in found} == {*crossed.TRAINERS}
    for recipe, result in found.items():
        wanted = REFUSED.get(recipe.precision, "trained")
        assert result.startswith(wanted), recipe


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"precision": "64-true"}, "trainer.precision=64-true: the precisions are "),
        ({"precision": 16}, "trainer.precision=16: the precisions are "),
        ({"strategy": "fsdp"}, "trainer.strategy=fsdp: .* set trainer=ddp, or trainer=fsdp"),
        ({"strategy": "deepspeed"}, "trainer.strategy=deepspeed: "),
        ({"accelerator": "gpu"}, "trainer.accelerator=gpu: this machine has no GPU"),
        ({"precision": "16-mixed"}, "16-mixed: this machine has no GPU"),
    ],
)
def test_a_trainer_that_is_not_offered_is_refused_in_a_line(trainer, said):
    def check() -> None:
        check_trainer(trainer)
        check_machine(trainer, cuda=False)

    with pytest.raises(ValueError, match=said):
        check()


def test_every_precision_that_is_offered_trains_on_a_gpu():
    for precision in PRECISIONS:
        trainer = {"accelerator": "gpu", "precision": precision}
        check_trainer(trainer)
        check_machine(trainer, cuda=True)
