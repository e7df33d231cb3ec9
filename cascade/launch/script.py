"""The script of a Slurm job: one run, queued again for as long as it asks for that."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_EARLY_S = 60  # sbatch's manual, of --signal

#: Signals are the run's; the script outlives them, to queue the job again.
_BEFORE = """\
export CASCADE_AGAIN={again}
rm -f "$CASCADE_AGAIN" "$CASCADE_AGAIN.not"
trap '' TERM INT USR1 USR2"""

#: A rank asks for it by a file, or by the stacks that it left where it hung; one that has failed by
#: itself forbids it. A job that the user cancelled, or that Slurm queues again itself, is not
#: running here.
_AFTER = """\
code=$?
stacks=$(find {stacks} -name "$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}-*" -size +0 2>/dev/null)
if [ -n "$stacks" ]; then touch "$CASCADE_AGAIN"; fi
if [ -e "$CASCADE_AGAIN" ] && [ ! -e "$CASCADE_AGAIN.not" ]; then
  rm -f "$CASCADE_AGAIN"
  if [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "queueing job $SLURM_JOB_ID again"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600
    echo "job $SLURM_JOB_ID could not be queued again; the same command goes on"
    code=1
  fi
fi
exit $code"""


def ranks(cluster: Mapping[str, Any]) -> int:
    """Processes per node: one per GPU where nothing else is said."""
    return int(cluster["ranks"] or cluster["gpus"] or 1)


def command(cluster: Mapping[str, Any], run: Path, overrides: Sequence[str]) -> str:
    """What each rank runs.

    Signals are ignored until Python takes them, so that none ends a process that has just begun.
    """
    python = cluster["python"] or sys.executable
    told = [
        *(*overrides, "hydra.mode=RUN", f"hydra.run.dir='{run}'"),
        *(f"++trainer.devices={ranks(cluster)}", f"++trainer.num_nodes={cluster['nodes']}"),
    ]
    job = shlex.join([python, "-u", "-m", "cascade.job", str(run), str(cluster["stuck"]), *told])
    shell = f"trap '' TERM INT USR1 USR2; exec {cluster['container'] or ''} {job}"
    return f"bash -c {shlex.quote(shell)}"


def parameters(cluster: Mapping[str, Any], run: Path, name: str) -> dict[str, Any]:
    """What submitit's executor is told.

    Raises:
        ValueError: Slurm would tell of a leg's end as soon as it begins.
    """
    per_node = ranks(cluster)
    if 60 * cluster["minutes"] <= cluster["notice_s"] + _EARLY_S:
        raise ValueError(
            f"cluster: legs of {cluster['minutes']} minutes end with a notice "
            f"{cluster['notice_s']} s before, which Slurm may give {_EARLY_S} s early: nothing is "
            "left; give more minutes"
        )
    again = shlex.quote(str(run / "slurm")) + '/"$SLURM_JOB_ID".again'
    told = {
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
        # srun does not take the cpus from sbatch since Slurm 22.05
        "srun_args": [
            *("--kill-on-bad-exit=1", "--open-mode=append"),
            f"--cpus-per-task={cluster['cpus']}",
        ],
        "setup": [*map(str, cluster["setup"]), _BEFORE.format(again=again)],
        "teardown": [_AFTER.format(stacks=shlex.quote(str(run / "stacks")))],
        "additional_parameters": {"requeue": True, **cluster["parameters"]},
    }
    return {key: value for key, value in told.items() if value is not None}
