"""Randomness keyed by (seed, position, purpose), never drawn in turn.

Position is the global number of a sample in its run. So one process equals many, a resumed run
equals an unbroken one, and the world size may change between them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


def key(seed: int, position: int, purpose: str) -> int:
    """A stable 63-bit number for (seed, position, purpose)."""
    digest = hashlib.blake2b(f"{seed}/{position}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rng(seed: int, position: int, purpose: str) -> np.random.Generator:
    """A generator for (seed, position, purpose) alone, for few draws of any kind on the CPU."""
    digest = hashlib.blake2b(f"{seed}/{position}/{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def generator(
    seed: int, position: int, purpose: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator of its own for (seed, position, purpose)."""
    return torch.Generator(device).manual_seed(key(seed, position, purpose))


def uniform(seed: int, position: int, purpose: str) -> float:
    """A number in (0, 1), neither end included."""
    return ((key(seed, position, purpose) >> 11) + 0.5) / 2.0**52


def choice(weights: Mapping[T, float], seed: int, position: int, purpose: str) -> T:
    """One of the keys, drawn by weight.

    Raises:
        ValueError: there is none.
    """
    if not weights:
        raise ValueError(f"keyed: nothing to choose from ({purpose})")
    left = uniform(seed, position, purpose) * sum(weights.values())
    for value, weight in weights.items():
        left -= weight
        if left <= 0:
            return value
    return value


def uniforms(seed: int, positions: Sequence[int], purpose: str) -> Float[Tensor, " b"]:
    """One number in (0, 1) per position, float64, on the CPU."""
    return torch.tensor([uniform(seed, p, purpose) for p in positions], dtype=torch.float64)


def normals(
    seed: int,
    positions: Sequence[int],
    purpose: str,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b ..."]:
    """Standard normal noise of `shape` per position, each from a generator of its own."""
    return torch.stack(
        [
            torch.randn(*shape, generator=generator(seed, p, purpose, device), device=device)
            for p in positions
        ]
    )
