"""The position of a run: the number of the next batch, whatever was read ahead."""

from typing import Any


class ResumePosition:
    """Optimizer steps to batches consumed, across resumes.

    `plan` is everything besides the data and the seed that the order of samples depends on.
    """

    def __init__(self, *, seed: int, plan: str) -> None:
        self.seed, self.plan = seed, plan
        self.consumed, self.at_step = 0, 0

    def position(self, step: int) -> int:
        """Batches consumed after `step` steps."""
        return self.consumed + step - self.at_step

    def state_dict(self, step: int, fingerprint: str) -> dict[str, Any]:
        """What a checkpoint holds; `fingerprint` is the data's."""
        return {
            "batch": self.position(step),
            "step": step,
            "seed": self.seed,
            "plan": self.plan,
            "fingerprint": fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any], fingerprint: str) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is of other data, another seed or another plan.
        """
        mine = {"seed": self.seed, "plan": self.plan, "fingerprint": fingerprint}
        for name, value in mine.items():
            if state[name] != value:
                raise ValueError(
                    f"data: the checkpoint's {name} is {state[name]}, this run's is {value}; "
                    "resume with the same shards, captions, depth of index and seed, or start "
                    "anew with init_from"
                )
        self.consumed, self.at_step = state["batch"], state["step"]
