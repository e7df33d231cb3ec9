"""Batches of one rank in the plan's order; the same whatever the number of worker processes."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch.utils.data import DataLoader, Dataset

from data.plan import Rows
from data.probe import DecodeError
from data.sample import Batch, Sample, collate

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 16


@dataclass(frozen=True)
class Failure:
    """A sample that did not decode, and the key that took its place."""

    key: str
    position: int
    reason: str
    replacement: str


class Batches(Dataset[tuple[Batch, list[Failure]]]):
    """Batch number n of one rank, with the samples that had to be replaced in it."""

    def __init__(
        self,
        *,
        rows: Rows,
        sample: Callable[[int, int], Sample],
        key: Callable[[int], str],
        positions: Callable[[int], Iterable[int]],
    ) -> None:
        self.rows, self.sample, self.key, self.positions = rows, sample, key, positions

    def __getitem__(self, number: int) -> tuple[Batch, list[Failure]]:
        """Batch `number`.

        Raises:
            ValueError: a position's sample and all its alternatives fail.
        """
        samples, failures = [], []
        for position in self.positions(number):
            failed: list[tuple[str, str]] = []
            for attempt in range(MAX_ATTEMPTS):
                row = self.rows.row(position, attempt)
                try:
                    samples.append(self.sample(row, position))
                    break
                except DecodeError as error:
                    failed.append((self.key(row), str(error)))
            else:
                raise ValueError(
                    f"data: position {position}: {MAX_ATTEMPTS} samples in a row do not decode, "
                    f"the last is {failed[-1][0]}: {failed[-1][1]}"
                )
            taken = samples[-1]["key"]
            failures += [Failure(key, position, reason, taken) for key, reason in failed]
        return collate(samples), failures


class Loader:
    """The batches of `numbers`; its length is the whole run's, which is more after a resume.

    Lightning counts a resumed run's batches from the run's beginning, so the length does too. It is
    no DataLoader, so Lightning leaves its order alone.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        numbers: range,
        length: int,
        num_workers: int = 0,
        prefetch: int = 2,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        self.numbers, self.length = numbers, length
        self.on_failure = on_failure
        self._loader = DataLoader(
            batches,
            batch_size=None,
            sampler=numbers,
            num_workers=num_workers,
            prefetch_factor=prefetch if num_workers else None,
            persistent_workers=num_workers > 0,
        )

    def __len__(self) -> int:
        return self.length

    def close(self) -> None:
        """Stop the workers now; left to the garbage collector, each may hang for five seconds."""
        workers, self._loader._iterator = self._loader._iterator, None
        if workers is not None and self._loader.num_workers:
            workers._shutdown_workers()  # type: ignore[attr-defined]  # torch has no public way

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, and report what had to be replaced."""
        for batch, failures in self._loader:
            for failure in failures:
                log.warning(
                    "data: sample %s at position %d does not decode (%s); %s takes its place",
                    failure.key,
                    failure.position,
                    failure.reason,
                    failure.replacement,
                )
                if self.on_failure is not None:
                    self.on_failure(failure)
            yield batch
