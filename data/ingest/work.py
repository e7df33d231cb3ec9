"""Sources to parts on this machine: a few processes side by side, each of which can be killed."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from data.decode.sandbox import Sandbox, SandboxError, cores
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
    """How sources are opened: seconds without progress, and bytes of memory, that each may take.

    Of about the share `thumbnails` of the sources, thumbnails are kept for the report.
    """

    deadline_s: float
    memory_bytes: int | None
    thumbnails: float

    def shows(self, source: Source) -> bool:
        """Whether thumbnails of this source are kept: by its name alone."""
        return int(source.digest, 16) < self.thumbnails * 2**64


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """All that is to be done: what of, where to, and how.

    `may_begin` says whether a source may be begun while others before it are not done.
    """

    folder: Folder
    sources: list[Source]
    recipe: Recipe
    bench: Bench
    may_begin: Callable[[int], bool] = lambda _: True


@runtime_checkable
class Cluster(Protocol):
    """Where sources are worked on."""

    def work(self, job: IngestPlan, numbers: list[int]) -> Iterator[None]:
        """Make the parts of these sources; a step whenever some may have been done."""

    def index(self, folder: Folder, shards: list[str]) -> None:
        """Index the shards that were made, every frame of every clip tried."""


class LocalProcesses:
    """This machine, with so many processes; by default one per core that this process may use."""

    def __init__(self, *, workers: int | None = None) -> None:
        self._workers = workers or cores()

    def work(self, job: IngestPlan, numbers: list[int]) -> Iterator[None]:
        """Make the parts of these sources; a step for each that is done."""
        job.folder.clear_scratch()
        yield from work_through(job, numbers, self._workers)

    def index(self, folder: Folder, shards: list[str]) -> None:  # noqa: ARG002 (others note it)
        """Index the shards that were made, every frame of every clip tried."""
        ensure_index(shards, depth="full", workers=self._workers)


def work_through(job: IngestPlan, numbers: Iterable[int], workers: int) -> Iterator[None]:
    """Make the parts of these sources; a step for each that is done.

    Raises:
        OSError: a part cannot be written.
        ValueError: a library is missing.
    """
    todo = iter(numbers)
    following = next(todo, None)
    pending: dict[Future[Record], tuple[int, Path]] = {}
    pool = _Pool(job, workers)
    try:
        while pending or following is not None:
            while (
                following is not None
                and len(pending) < _QUEUED * workers
                and (job.may_begin(following) or not pending)
            ):
                scratch = job.folder.scratch(following)
                pending[pool.begin(job.sources[following], scratch)] = following, scratch
                following = next(todo, None)
            ready, _ = wait(pending, return_when=FIRST_COMPLETED)
            for done in ready:
                number, scratch = pending.pop(done)
                job.folder.commit(number, scratch, done.result())
                yield
    finally:
        pool.close()


class _Pool:
    """Threads, each of which waits for a process of its own."""

    def __init__(self, job: IngestPlan, workers: int) -> None:
        self._job = job
        self._threads = ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._sandboxes: list[Sandbox] = []

    def begin(self, source: Source, scratch: Path) -> Future[Record]:
        """Start a source as soon as a process is free."""
        return self._threads.submit(self._record, source, scratch)

    def close(self) -> None:
        """End the processes, whatever they do: what is not committed will be done again."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    def _record(self, source: Source, scratch: Path) -> Record:
        """What is found in a source, or why it is dropped."""
        if source.refused:
            return dropped("refused", source.refused)
        sandbox = self._sandbox()
        try:
            return sandbox.call(
                make_part,
                source.file,
                str(scratch),
                self._job.recipe,
                thumbnails=self._job.bench.shows(source),
                deadline_s=self._job.bench.deadline_s,
            )
        except OSError:
            raise
        except SandboxError as error:
            record = dropped("given up", str(error))
        except Exception as error:  # a library's, on a file that it does not expect
            record = dropped("fails", f"{type(error).__name__}: {error}")
        scratch.unlink(missing_ok=True)
        return record

    def _sandbox(self) -> Sandbox:
        """This thread's process, which has proved that it can start and has its libraries."""
        if not hasattr(self._own, "sandbox"):
            sandbox = Sandbox(memory_bytes=self._job.bench.memory_bytes)
            self._sandboxes.append(sandbox)
            sandbox.call(check_libraries, deadline_s=_START_S)
            self._own.sandbox = sandbox
        found: Sandbox = self._own.sandbox
        return found
