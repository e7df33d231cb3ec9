"""What a device computes in a few steps: torch's profiler, its kernels by kind, and its trace."""

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

#: Kinds of kernels by a pattern of their names, the first that is found; others are elementwise.
KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "convolution": r"conv|fprop|dgrad|wgrad|implicit",
    "matrix product": r"gemm|nvjet|cutlass|cublas|matmul|::(mm|addmm|bmm|baddbmm)\b",
    "copy": r"memcpy|memset|aten::copy_",
}


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))
    return next(found, "elementwise and other")


class Kernels:
    """Torch's profiler over `steps` steps, on the GPU or the CPU."""

    def __init__(self, *, cuda: bool) -> None:
        self.cuda = cuda
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._profile = profile(activities=activities)
        self.steps = 0

    def start(self) -> None:
        """Start to record."""
        self._profile.start()

    def stop(self, steps: int) -> None:
        """Stop; `steps` have been recorded."""
        self.steps = steps
        self._profile.stop()

    def save(self, path: Path) -> None:
        """Write the trace, for Chrome or Perfetto; a name that ends in .gz is compressed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(path))

    def figures(self, top: int = 15) -> dict[str, Any]:
        """The kernels' seconds a step, their shares by kind, and the `top` longest.

        On a CPU they are torch's operators, each without those that it calls.
        """
        device = "CUDA" if self.cuda else "CPU"
        times: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        events: Any = self._profile.key_averages()
        for event in events:
            if event.device_type.name == device and not getattr(event, "is_user_annotation", False):
                spent = event.self_device_time_total if self.cuda else event.self_cpu_time_total
                times[event.key] += spent / 1e6 / self.steps
                counts[event.key] += event.count
        busy = sum(times.values())
        kinds: dict[str, float] = defaultdict(float)
        for name, seconds in times.items():
            kinds[kind_of(name)] += seconds / busy
        longest = sorted(times, key=lambda name: -times[name])[:top]
        return {
            "busy_s": busy,
            "launches": sum(counts.values()) / self.steps,
            "kinds": dict(sorted(kinds.items(), key=lambda pair: -pair[1])),
            "top": [
                {"name": n, "share": times[n] / busy, "count": counts[n] / self.steps}
                for n in longest
            ],
        }


def compiled() -> dict[str, Any] | None:
    """Graphs of compiled blocks so far, breaks and compile seconds; None if there are none."""
    if "torch._dynamo" not in sys.modules:
        return None
    from torch._dynamo.utils import compile_times, counters

    graphs = counters["stats"]["unique_graphs"]
    if not graphs:
        return None
    spent: Any = compile_times(repr="csv", aggregate=True)
    seconds = dict(zip(*spent, strict=True))
    return {
        "graphs": graphs,
        "breaks": sum(counters["graph_break"].values()),
        "seconds": float(seconds.get("_compile.compile_inner", 0)),
    }
