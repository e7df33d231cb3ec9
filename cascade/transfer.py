"""Copies to a GPU without waiting for it."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Values of the CPU on a device; the copy to a GPU is queued, and the CPU does not wait.

    The copy of memory that is not pinned would wait for all that the GPU has still to do.
    """
    ready = values.pin_memory() if torch.device(device).type == "cuda" else values
    return ready.to(device, non_blocking=True)
