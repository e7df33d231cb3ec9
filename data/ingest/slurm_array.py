"""`make shards` on a Slurm array, by submitit; the submitting process packs finished sources."""

import json
import logging
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.files.atomic import write_atomic
from data.index.sidecar import ensure_index
from data.ingest.output_folder import Folder, read_sources
from data.ingest.recipe import Recipe
from data.ingest.work import Bench, IngestPlan, work_through

log = logging.getLogger(__name__)

_POLLS_AFTER_END = 3  # a network file system shows files late


class SlurmArray:
    """An array of at most `array` tasks; the same command continues with unfinished sources."""

    def __init__(
        self,
        *,
        partition: str | None,
        account: str | None,
        qos: str | None,
        constraint: str | None,
        parameters: Mapping[str, Any],
        array: int,
        cpus: int,
        minutes: int,
        memory_gb_per_cpu: int | None,
        setup: list[str],
        poll_s: float,
    ) -> None:
        if min(array, cpus, minutes) < 1 or poll_s <= 0:
            raise ValueError(
                f"cluster.shards: array, cpus, minutes and poll_s must be positive, got {array}, "
                f"{cpus}, {minutes} and {poll_s:g}"
            )
        self._array, self._cpus, self._poll_s = array, cpus, poll_s
        self._parameters: dict[str, Any] = {
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_qos": qos,
            "slurm_constraint": constraint,
            "slurm_additional_parameters": dict(parameters) or None,
            "timeout_min": minutes,
            "cpus_per_task": cpus,
            "slurm_mem_per_cpu": memory_gb_per_cpu and f"{memory_gb_per_cpu}G",
            "slurm_setup": [str(line) for line in setup] or None,
            "slurm_array_parallelism": array,
        }

    def work(self, plan: IngestPlan, numbers: list[int]) -> Iterator[None]:
        """Wait for a running array, then submit one for the remaining sources; yield at each poll.

        Raises:
            ValueError: Slurm is not available, or the array ended before all sources were finished.
        """
        if not numbers:
            return
        if shutil.which("sbatch") is None:
            raise ValueError(
                "cluster: slurm needs sbatch on the PATH, but there is none; run this on a login "
                "node"
            )
        yield from self._join(plan.folder, "sources")
        left = sorted(set(numbers) - plan.folder.recorded())
        if not left:
            return
        plan.folder.clear_scratch()
        count = min(self._array, len(left))
        tasks = [
            SourcesTask(
                to=str(plan.folder.to.absolute()),
                numbers=left[i::count],
                recipe=plan.recipe,
                bench=plan.bench,
                workers=self._cpus,
            )
            for i in range(count)
        ]
        array = self._submit(plan.folder, "sources", tasks)
        yield from self._wait(array)
        missing = set(left) - plan.folder.recorded()
        if missing:
            raise ValueError(
                f"cluster: array {array} ended with {len(missing)} of {len(left)} sources "
                f"unfinished; its logs are in {plan.folder.work / 'slurm'}; run the same command "
                "again to continue"
            )

    def index(self, folder: Folder, shards: list[str]) -> None:
        """Index the new shards at depth `full`, by another array."""
        for _ in self._join(folder, "index"):
            pass
        count = min(self._array, len(shards))
        places = [str(Path(shard).absolute()) for shard in shards]
        tasks = [IndexTask(shards=places[i::count], workers=self._cpus) for i in range(count)]
        for _ in self._wait(self._submit(folder, "index", tasks)):
            pass
        ensure_index(shards, depth="full")  # those that the array has not finished

    def _join(self, folder: Folder, name: str) -> Iterator[None]:
        """Wait for the array of an earlier run of the command, if it is still running."""
        note = folder.work / f"{name}.array.json"
        if note.exists() and _is_active(running := json.loads(note.read_bytes())):
            log.info("waiting for array %s, which is still running", running)
            yield from self._wait(running)

    def _submit(self, folder: Folder, name: str, tasks: Sequence["ArrayTask"]) -> str:
        import submitit

        executor = submitit.AutoExecutor(folder=folder.work / "slurm", cluster="slurm")
        set_here = {key: value for key, value in self._parameters.items() if value is not None}
        executor.update_parameters(name=f"shards-{name}", **set_here)
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
        array = str(jobs[0].job_id).partition("_")[0]
        write_atomic(folder.work / f"{name}.array.json", json.dumps(array).encode())
        log.info("array %s: %d tasks on %s", array, len(tasks), name)
        return array

    def _wait(self, array: str) -> Iterator[None]:
        ended = 0
        while ended < _POLLS_AFTER_END:
            time.sleep(self._poll_s)
            ended = 0 if _is_active(array) else ended + 1
            yield


class ArrayTask(ABC):
    """One task of an array; when it is requeued, it continues with unfinished work."""

    @abstractmethod
    def __call__(self) -> None:
        """Run the task."""

    def checkpoint(self) -> Any:
        """The task that submitit requeues after a preemption or a timeout."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class IndexTask(ArrayTask):
    """Indexes some shards."""

    def __init__(self, *, shards: list[str], workers: int) -> None:
        self._shards, self._workers = shards, workers

    def __call__(self) -> None:
        """Index the shards."""
        ensure_index(self._shards, depth="full", workers=self._workers)


class SourcesTask(ArrayTask):
    """Makes the parts of some sources."""

    def __init__(
        self, *, to: str, numbers: list[int], recipe: Recipe, bench: Bench, workers: int
    ) -> None:
        self._to, self._numbers, self._workers = to, numbers, workers
        self._recipe, self._bench = recipe, bench

    def __call__(self) -> None:
        """Make the parts."""
        folder = Folder(Path(self._to))
        sources = read_sources(folder.to)
        plan = IngestPlan(folder=folder, sources=sources, recipe=self._recipe, bench=self._bench)
        left = [n for n in self._numbers if not folder.record_path(n).exists()]
        for _ in work_through(plan, left, self._workers):
            pass


def _is_active(array: str) -> bool:
    """Whether a task of an array is pending or running; assumed if squeue fails."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--jobs", array, "--format=%T"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode == 0:
        return bool(asked.stdout.strip())
    return "Invalid job id" not in asked.stderr
