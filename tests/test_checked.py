"""The checks of calls that the tests run with: a wrong type, and axes that do not agree."""

from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from cascade.conditioning import Given
from cascade.grid import Grid
from tests import checked

check = checked.calls(typechecker=checked.typechecked)


@check
def double(number: int) -> int:
    return number * 2 if number else "none"


@check
def added(x: Float[Tensor, "a b"], y: Float[Tensor, "b"] | None) -> Float[Tensor, "a b"]:
    return x if y is None else (x + y)[: len(y)]


@check
@dataclass
class Pair:
    x: Float[Tensor, "a"]
    y: list[Float[Tensor, "a"]]
    name: str = ""


def test_a_wrong_type_is_refused_where_it_goes_in_and_where_it_comes_out():
    assert double(2) == 4
    for wrong in ("2", 0):
        with pytest.raises(TypeError):
            double(wrong)


def test_an_axis_has_one_size_in_a_call():
    x, y = torch.zeros(2, 3), torch.zeros(3)
    assert added(x, y).shape == (2, 3)
    for arguments in ((x, x), (x, y[:2]), (torch.zeros(4, 3), y)):
        with pytest.raises(TypeError):
            added(*arguments)


def test_a_dataclass_is_checked_as_it_is_made():
    Pair(torch.zeros(2), [torch.zeros(2)])
    for wrong in (([torch.zeros(3)], ""), ([torch.zeros(2)], 1)):
        with pytest.raises(TypeError):
            Pair(torch.zeros(2), *wrong)


def test_the_product_s_calls_are_checked():
    assert jaxtyping.jaxtyped is checked.calls
    with pytest.raises(TypeError):
        Grid(frames="8", height=16, width=16, fps=4)
    with pytest.raises(TypeError):
        Given(torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 1, 2, 4, 5))
