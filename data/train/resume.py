"""The position of a run: the number of the next batch, independent of prefetching."""

from typing import Any


class ResumePosition:
    """Converts optimizer steps to batches consumed, across resumes.

    `plan` identifies everything besides data and seed that the order of samples depends on.
    """

    def __init__(self, *, seed: int, plan: str) -> None:
        self.seed, self.plan = seed, plan
        self.consumed, self.at_step = 0, 0

    def position(self, step: int) -> int:
        """Number of batches consumed after `step` steps."""
        return self.consumed + step - self.at_step

    def state_dict(self, step: int, fingerprint: str) -> dict[str, Any]:
        """The state for a checkpoint; `fingerprint` identifies the data."""
        return {
            "batch": self.position(step),
            "step": step,
            "seed": self.seed,
            "plan": self.plan,
            "fingerprint": fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any], fingerprint: str) -> None:
        """Resume from the state in a checkpoint.

        Raises:
            ValueError: the data, the seed or the plan differs.
        """
        mine = {"seed": self.seed, "plan": self.plan, "fingerprint": fingerprint}
        for name, value in mine.items():
            if state[name] != value:
                raise ValueError(
                    f"data: the {name} of the checkpoint is {state[name]}, but that of this run is "
                    f"{value}; resume with the same shards, captions, index depth and seed, or "
                    "start another run with init_from"
                )
        self.consumed, self.at_step = state["batch"], state["step"]
