"""The time of a step by its parts, from Lightning's own profiling hooks."""

import time
from collections import defaultdict

import torch
from pytorch_lightning.profilers import Profiler
from torch import nn

from cascade.callbacks.averages import EMA

#: The parts of a step, in order. `trainer` is Lightning's own loop.
PARTS = (
    *("data", "preparing", "forward", "backward", "optimizer", "averages", "callbacks", "trainer"),
)
#: The part of each of Lightning's hooks; hooks inside another belong to that one's part.
HOOKS = {
    "train_dataloader_next": "data",
    "on_before_batch_transfer": "data",
    "transfer_batch_to_device": "data",
    "on_after_batch_transfer": "data",
    "batch_to_device": "data",
    "training_step": "preparing",
    "forward": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
    "optimizer_zero_grad": "optimizer",
    "configure_gradient_clipping": "optimizer",
    "lr_scheduler_step": "optimizer",
}


def part_of(action: str) -> str | None:
    """The part of one of Lightning's actions, such as `[Callback]EMA.on_train_batch_end`."""
    if action.startswith("[Callback]"):
        return "averages" if action.startswith(f"[Callback]{EMA.__qualname__}") else "callbacks"
    return HOOKS.get(action.rpartition(".")[2])


class Parts(Profiler):
    """Divides the time of steps among their parts: all time belongs to the innermost action.

    `forward` is the network and the text encoder; the rest of `training_step` (the noised example
    and the loss) is `preparing`. A GPU runs behind the CPU, so there the division waits for it
    (`waits`) whenever another part begins, which makes the step longer.
    """

    def __init__(self) -> None:
        super().__init__()
        #: The seconds of each part since `begin`.
        self.seconds: defaultdict[str, float] = defaultdict(float)
        #: The actions that have begun, each with its part.
        self._stack: list[tuple[str, str]] = [("", "trainer")]
        self._last: float | None = None
        self._waits = False

    def watch(self, *modules: nn.Module) -> None:
        """Count the time of these modules' calls as `forward`."""
        for module in modules:
            module.register_forward_pre_hook(lambda *_: self.start("forward"))
            module.register_forward_hook(lambda *_: self.stop("forward"), always_call=True)

    def begin(self, *, waits: bool) -> None:
        """Start to count."""
        self._waits, self._last = waits, None
        self.seconds.clear()
        self._turn(wait=waits)

    def end(self) -> dict[str, float]:
        """Stop to count; the seconds of each part."""
        self._turn(wait=self._waits)
        self._last = None
        return {part: self.seconds[part] for part in PARTS}

    def start(self, action_name: str) -> None:
        """An action begins."""
        part = part_of(action_name) or self._stack[-1][1]
        if self._last is not None:
            self._turn(wait=self._waits and part != self._stack[-1][1])
        self._stack.append((action_name, part))

    def stop(self, action_name: str) -> None:
        """The innermost action ends."""
        (begun, part), (_, outer) = self._stack[-1], self._stack[-2]
        assert begun == action_name, f"{begun} has begun, but {action_name} ends"
        if self._last is not None:
            self._turn(wait=self._waits and part != outer)
        self._stack.pop()

    def _turn(self, *, wait: bool) -> None:
        """Count the time until now as the innermost action's."""
        if wait:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._last is not None:
            self.seconds[self._stack[-1][1]] += now - self._last
        self._last = now
