"""Devices: the one that is here, or one named in `plan.devices`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cascade.doctor.figure import Figure
from cascade.flops import BF16_PEAKS, measured_matmul_peak

_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that a rank trains on: `memory` in bytes, `peak` of matrix products in FLOP/s."""

    name: str
    cuda: bool
    here: bool
    memory: Figure
    peak: Figure


def find_device(
    choice: str, table: Mapping[str, Mapping[str, Any]], *, accelerator: str, precision: str
) -> Device:
    """The device `choice`: `auto` for what is here, `cpu`, or a name of the table.

    Raises:
        ValueError: no such name, or a GPU that is asked for and not here.
    """
    half = not precision.startswith("32")
    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if choice == "auto" and gpu and not torch.cuda.is_available():
        raise ValueError(
            f"plan: trainer.accelerator={accelerator}, but no GPU is here; name the one to plan "
            f"for: plan.device={next(iter(table), 'cpu')}"
        )
    if choice == "cpu" or (choice == "auto" and not gpu):
        peak = measured_matmul_peak("cpu", torch.float32)
        note = "of matrix products on this machine, all its cores"
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
        )
    if choice not in table:
        raise ValueError(
            f"plan.device={choice}: not known; there are {', '.join(['auto', 'cpu', *table])}"
        )
    row = table[choice]
    here = torch.cuda.is_available() and row["name"] in torch.cuda.get_device_name()
    return Device(
        name=row["name"],
        cuda=True,
        here=here,
        memory=Figure(row["memory_mib"] * 2**20, "estimated", "bytes", "by the table plan.devices"),
        peak=_sheet(row["name"], half, row["float32_tflops"] * 1e12),
    )


def _sheet(name: str, half: bool, single: float | None) -> Figure:
    """The data sheet's peak."""
    peak = next((p for part, p in BF16_PEAKS.items() if part in name), None) if half else single
    kind = "bfloat16" if half else "float32"
    return Figure(peak, "estimated", "FLOP/s", f"data sheet, dense {kind} matrix products")


def _machine_memory() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    return memory if limit == "max" else min(memory, int(limit))
