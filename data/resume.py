"""The position of a run: samples consumed by whole optimizer steps, whatever was read ahead."""

from typing import Any

import pytorch_lightning as pl


class Progress:
    """Optimizer steps to samples consumed, across resumes that change the global batch."""

    def __init__(self, *, global_batch: int, seed: int) -> None:
        self.global_batch, self.seed = global_batch, seed
        self.consumed, self.at_step = 0, 0

    def position(self, step: int) -> int:
        """Samples consumed after `step` steps."""
        return self.consumed + (step - self.at_step) * self.global_batch

    def state_dict(self, step: int, fingerprint: str) -> dict[str, Any]:
        """What a checkpoint holds; `fingerprint` is the data's."""
        position = self.position(step)
        return {"consumed": position, "step": step, "seed": self.seed, "fingerprint": fingerprint}

    def load_state_dict(self, state: dict[str, Any], fingerprint: str) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is of other data or another seed, or not a multiple of the batch.
        """
        for name, mine in (("seed", self.seed), ("fingerprint", fingerprint)):
            if state[name] != mine:
                raise ValueError(
                    f"data: the checkpoint's {name} is {state[name]}, this run's is {mine}; "
                    "resume with the same data and seed, or start anew with init_from"
                )
        if state["consumed"] % self.global_batch:
            raise ValueError(
                f"data.global_batch={self.global_batch} does not divide the "
                f"{state['consumed']} samples that the checkpoint has consumed"
            )
        self.consumed, self.at_step = state["consumed"], state["step"]


def count_batches(trainer: pl.Trainer, done: int) -> None:
    """Have Lightning count `done` batches as behind it.

    It restores its own count from the checkpoint, which is wrong where the accumulation has
    changed since, or where it was saved in the midst of one, whose gradients are lost. A
    checkpoint from the end of a batch lacks that batch's completion, which Lightning adds itself.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    total = vars(progress.total)
    pending = total["ready"] == total["started"] == total["processed"] == total["completed"] + 1
    counts = {"ready": done, "started": done, "processed": done, "completed": done - pending}
    for name, count in counts.items():
        setattr(progress.current, name, count)
