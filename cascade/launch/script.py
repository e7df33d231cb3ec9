"""The script of a Slurm job: it trains one run, and requeues the job when the run requests it.

The job of another command, such as a part of a batch of samples, is one process of that command.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Slurm may send the signal of --signal so many seconds early (manual of sbatch).
_EARLY_S = 60

#: The script ignores the signals that the run handles, so that it can requeue the job afterwards.
_BEFORE = """\
export CASCADE_AGAIN={again}
rm -f "$CASCADE_AGAIN" "$CASCADE_AGAIN.not"
trap '' TERM INT USR1 USR2"""

#: A rank requests a requeue by a file, or, if it hung, by its file of stacks; a rank that failed by
#: itself forbids it. The state is not RUNNING if the user cancelled the job or Slurm requeues it.
_AFTER = """\
code=$?
stacks=$(find {stacks} -name "$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}-*" -size +0 2>/dev/null)
if [ -n "$stacks" ]; then touch "$CASCADE_AGAIN"; fi
if [ -e "$CASCADE_AGAIN" ] && [ ! -e "$CASCADE_AGAIN.not" ]; then
  rm -f "$CASCADE_AGAIN"
  if [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "requeueing job $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600
    echo "job $SLURM_JOB_ID could not be requeued; it stopped; run the same command to resume"
    code=1
  fi
fi
exit $code"""


def ranks(cluster: Mapping[str, Any]) -> int:
    """Processes per node: `cluster.ranks`, else one per GPU."""
    return int(cluster["ranks"] or cluster["gpus"] or 1)


def command(
    cluster: Mapping[str, Any], run: Path, overrides: Sequence[str], *, task: str = "train"
) -> str:
    """The shell command that each rank runs.

    Training ignores signals until Python handles them, so that none ends a process that has just
    started.
    """
    python = cluster["python"] or sys.executable
    if task != "train":
        job = shlex.join([python, "-u", "-m", f"cascade.{task}", *overrides, "hydra.mode=RUN"])
        alone = f"exec {cluster['container'] or ''} {job}"
        return f"bash -c {shlex.quote(alone)}"
    options = [
        *(*overrides, "hydra.mode=RUN", f"hydra.run.dir='{run}'"),
        *(f"++trainer.devices={ranks(cluster)}", f"++trainer.num_nodes={cluster['nodes']}"),
    ]
    job = shlex.join([python, "-u", "-m", "cascade.job", str(run), str(cluster["stuck"]), *options])
    shell = f"trap '' TERM INT USR1 USR2; exec {cluster['container'] or ''} {job}"
    return f"bash -c {shlex.quote(shell)}"


def parameters(
    cluster: Mapping[str, Any], run: Path, name: str, *, task: str = "train"
) -> dict[str, Any]:
    """The parameters of submitit's executor.

    Raises:
        ValueError: the notice before the time limit would come when the job starts.
    """
    if task != "train":
        cluster = {**cluster, "nodes": 1, "ranks": 1, "gpus": min(cluster["gpus"], 1)}
    per_node = ranks(cluster)
    if 60 * cluster["minutes"] <= cluster["notice_s"] + _EARLY_S:
        raise ValueError(
            f"cluster: minutes must exceed notice_s plus {_EARLY_S} s, since Slurm may send the "
            f"notice {_EARLY_S} s early, but {cluster['minutes']} minutes do not exceed "
            f"{cluster['notice_s']} s + {_EARLY_S} s; raise cluster.minutes"
        )
    again = shlex.quote(str(run / "slurm")) + '/"$SLURM_JOB_ID".again'
    known = {
        "job_name": name,
        "partition": cluster["partition"],
        "account": cluster["account"],
        "qos": cluster["qos"],
        "constraint": cluster["constraint"],
        "time": cluster["minutes"],
        "nodes": cluster["nodes"],
        "ntasks_per_node": per_node,
        "gpus_per_node": cluster["gpus"] or None,
        "cpus_per_task": cluster["cpus"],
        "mem": cluster["memory_gb"] and f"{cluster['memory_gb']}G",
        "signal_delay_s": cluster["notice_s"],
        "stderr_to_stdout": True,
        # Since Slurm 22.05, srun does not inherit cpus_per_task from sbatch.
        "srun_args": [
            *("--kill-on-bad-exit=1", "--open-mode=append"),
            f"--cpus-per-task={cluster['cpus']}",
        ],
        "setup": [*map(str, cluster["setup"]), _BEFORE.format(again=again)],
        "teardown": [_AFTER.format(stacks=shlex.quote(str(run / "stacks")))],
        "additional_parameters": {"requeue": True, **cluster["parameters"]},
    }
    if task != "train":  # its process continues when Slurm requeues it, and requests nothing
        known |= {"setup": [*map(str, cluster["setup"])], "teardown": None}
    return {key: value for key, value in known.items() if value is not None}
