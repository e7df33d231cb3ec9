"""Inside a Slurm job: its ranks, its end, and how it is queued again."""

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment


def environment() -> list[SLURMEnvironment]:
    """The ranks as Slurm tells them; none outside a job. The signals stay ours."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def requeue() -> None:
    """Queue this job again, where Slurm asked it to stop; returns where it did not."""
