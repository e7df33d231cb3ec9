"""The device to plan for: this machine's, or one of the table `plan.devices`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cascade.control_groups import limits
from cascade.doctor.figure import Figure
from cascade.flops import BANDWIDTHS, BF16_PEAKS, has_words, measured_matmul_peak, named


@dataclass(frozen=True, kw_only=True)
class Device:
    """A rank's device: `memory` in bytes, `peak` of matrix products in FLOP/s.

    `here` says whether it is on this machine. `bandwidth` of a GPU's memory is in bytes/s; None if
    it is unknown.
    """

    name: str
    cuda: bool
    here: bool
    memory: Figure
    peak: Figure
    bandwidth: float | None = None


def find_device(
    choice: str, table: Mapping[str, Mapping[str, Any]], *, accelerator: str, precision: str
) -> Device:
    """The device `choice`: `auto` for this machine's, `cpu`, or a name of the table.

    Raises:
        ValueError: the name is unknown, or the trainer needs a GPU and this machine has none.
    """
    half = not precision.startswith("32")
    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if choice == "auto" and gpu and not torch.cuda.is_available():
        raise ValueError(
            f"plan: trainer.accelerator={accelerator}, but this machine has no GPU; name the "
            f"device to plan for, such as plan.device={next(iter(table), 'cpu')}"
        )
    if choice == "cpu" or (choice == "auto" and not gpu):
        peak = measured_matmul_peak("cpu", torch.float32)
        note = "matrix products on all cores of this machine"
        return Device(
            name=f"CPU, {os.cpu_count()} cores",
            cuda=False,
            here=True,
            memory=Figure(_machine_memory(), "measured", "bytes", "of the machine"),
            peak=Figure(peak, "measured", "FLOP/s", note),
        )
    if choice == "auto":
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
        return Device(
            name=name,
            cuda=True,
            here=True,
            memory=Figure(memory, "measured", "bytes", "of the device"),
            peak=_sheet(name, half, None),
            bandwidth=named(BANDWIDTHS, name),
        )
    if choice not in table:
        raise ValueError(
            f"plan.device={choice}: unknown; the devices are {', '.join(['auto', 'cpu', *table])}"
        )
    row = table[choice]
    here = torch.cuda.is_available() and has_words(torch.cuda.get_device_name(), row["name"])
    return Device(
        name=row["name"],
        cuda=True,
        here=here,
        memory=Figure(row["memory_mib"] * 2**20, "estimated", "bytes", "from plan.devices"),
        peak=_sheet(row["name"], half, row["float32_tflops"] * 1e12),
        bandwidth=named(BANDWIDTHS, row["name"]),
    )


def _sheet(name: str, half: bool, single: float | None) -> Figure:
    """The peak by the device's data sheet."""
    peak = named(BF16_PEAKS, name) if half else single
    kind = "bfloat16" if half else "float32"
    return Figure(peak, "estimated", "FLOP/s", f"data sheet, dense {kind} matrix products")


def _machine_memory() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([memory, *(most for _, most in limits())])
