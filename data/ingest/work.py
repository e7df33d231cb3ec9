"""Reads sources into parts on this machine, in a few parallel child processes."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from typing_extensions import override

from cascade.cores import cores
from data.decode.sandbox import Sandbox, SandboxError
from data.index.sidecar import ensure_index
from data.ingest.make import check_libraries, make_part
from data.ingest.output_folder import Folder
from data.ingest.part import Record, dropped
from data.ingest.recipe import Recipe
from data.ingest.sources import Source

_QUEUED = 2  # sources per worker
_START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Limits of the child process for each source: seconds without progress, and bytes of memory.

    `thumbnails` is the approximate share of the sources with thumbnails in the report.
    """

    deadline_s: float
    memory_bytes: int | None
    thumbnails: float

    def shows(self, source: Source) -> bool:
        """Whether thumbnails of this source are kept; depends only on its name."""
        return int(source.digest, 16) < self.thumbnails * 2**64


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """The work of `make shards`: the sources, the output folder, the recipe and the limits.

    `may_begin` says whether a source may be read although earlier ones are unfinished.
    """

    folder: Folder
    sources: list[Source]
    recipe: Recipe
    bench: Bench
    may_begin: Callable[[int], bool] = lambda _: True


@runtime_checkable
class Cluster(Protocol):
    """Runs the work: on this machine or on a Slurm cluster."""

    def work(self, plan: IngestPlan, numbers: list[int]) -> Iterator[None]:
        """Make the parts of these sources; yield whenever some may be finished."""

    def index(self, folder: Folder, shards: list[str]) -> None:
        """Index the new shards at depth `full`."""


class LocalProcesses(Cluster):
    """Processes on this machine; by default one per core that this process may use."""

    def __init__(self, *, workers: int | None = None) -> None:
        self._workers = workers or cores()

    def work(self, plan: IngestPlan, numbers: list[int]) -> Iterator[None]:
        """Make the parts of these sources; yield after each one."""
        plan.folder.clear_scratch()
        yield from work_through(plan, numbers, self._workers)

    @override
    def index(self, folder: Folder, shards: list[str]) -> None:
        """Index the new shards at depth `full`."""
        ensure_index(shards, depth="full", workers=self._workers)


def work_through(plan: IngestPlan, numbers: Iterable[int], workers: int) -> Iterator[None]:
    """Make the parts of these sources; yield after each one.

    Raises:
        OSError: a part cannot be written.
        ValueError: a library is missing.
    """
    todo = iter(numbers)
    following = next(todo, None)
    pending: dict[Future[Record], tuple[int, Path]] = {}
    pool = _Pool(plan, workers)
    try:
        while pending or following is not None:
            while (
                following is not None
                and len(pending) < _QUEUED * workers
                and (plan.may_begin(following) or not pending)
            ):
                scratch = plan.folder.scratch(following)
                pending[pool.begin(plan.sources[following], scratch)] = following, scratch
                following = next(todo, None)
            ready, _ = wait(pending, return_when=FIRST_COMPLETED)
            for done in ready:
                number, scratch = pending.pop(done)
                plan.folder.commit(number, scratch, done.result())
                yield
    finally:
        pool.close()


class _Pool:
    """Threads, each with its own child process."""

    def __init__(self, plan: IngestPlan, workers: int) -> None:
        self._plan = plan
        self._threads = ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._sandboxes: list[Sandbox] = []

    def begin(self, source: Source, scratch: Path) -> Future[Record]:
        """Queue a source for the next free process."""
        return self._threads.submit(self._record, source, scratch)

    def close(self) -> None:
        """End the processes at once; uncommitted work will be repeated."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    def _record(self, source: Source, scratch: Path) -> Record:
        """The record of a source, also if it is dropped."""
        if source.refused:
            return dropped("refused", source.refused)
        sandbox = self._sandbox()
        try:
            return sandbox.call(
                make_part,
                source.file,
                str(scratch),
                self._plan.recipe,
                thumbnails=self._plan.bench.shows(source),
                deadline_s=self._plan.bench.deadline_s,
            )
        except OSError:
            raise
        except SandboxError as error:
            record = dropped("given up", str(error))
        except Exception as error:  # raised by a library for an unexpected file
            record = dropped("failed", f"{type(error).__name__}: {error}")
        scratch.unlink(missing_ok=True)
        return record

    def _sandbox(self) -> Sandbox:
        """The child process of this thread, after it has imported its libraries."""
        if not hasattr(self._own, "sandbox"):
            sandbox = Sandbox(memory_bytes=self._plan.bench.memory_bytes)
            self._sandboxes.append(sandbox)
            sandbox.call(check_libraries, deadline_s=_START_S)
            self._own.sandbox = sandbox
        found: Sandbox = self._own.sandbox
        return found
