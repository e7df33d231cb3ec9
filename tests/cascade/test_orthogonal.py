"""Muon's matrices are those of Newton-Schulz steps in float64, in every shape and format."""

import pytest
import torch

from cascade.orthogonal import STEPS, A, B, C, orthogonalize

ROWS = 48


def stepped(x):
    """The steps of Jordan et al. 2024 as they are written, in the format of `x`."""
    x = x / torch.linalg.matrix_norm(x, keepdim=True)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x


def matrices(columns):
    """Random matrices: of any kind, of a low rank with noise, and with values over six decades."""
    torch.manual_seed(0)
    x = torch.randn(2, ROWS, columns)
    low = torch.randn(2, ROWS, 4) @ torch.randn(2, 4, columns) + 1e-3 * x
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return torch.cat((x, low, u * torch.logspace(0, -6, ROWS) @ v))


def errors(found, true):
    """The relative error of each matrix."""
    return torch.linalg.matrix_norm(found.double() - true) / torch.linalg.matrix_norm(true)


@pytest.mark.parametrize("factor", [1, 2, 3, 9])
def test_every_shape_has_the_result_of_the_steps_in_float64(factor):
    x = matrices(factor * ROWS)
    true = stepped(x.double())
    assert errors(orthogonalize(x), true).max() < 1e-3
    assert errors(orthogonalize(x.mT).mT, true).max() < 1e-3


@pytest.mark.parametrize("factor", [2, 4, 9])
def test_in_bfloat16_wide_matrices_are_as_exact_as_by_the_steps(factor):
    x = matrices(factor * ROWS)
    true = stepped(x.double())
    found, plain = orthogonalize(x.bfloat16()), stepped(x.bfloat16())
    assert torch.linalg.svdvals(found.float()).max() < 1.3
    assert errors(found, true).max() < 1.1 * errors(plain, true).max()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (1, 8, 24)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_batch_of_matrices_equals_each_alone():
    x = torch.randn(3, 8, 24)
    torch.testing.assert_close(orthogonalize(x)[1], orthogonalize(x[1:2])[0])
