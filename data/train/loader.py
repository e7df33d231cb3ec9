"""Batches of one rank in the order of the plan, for any number of worker processes."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cascade.media.reason import DecodeError
from data.plan.buckets import Draw
from data.shards.format import ON_DEVICE, Batch, PackedBatch, Sample, collate, collate_packed
from data.train.quarantine import Failure

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 16


@runtime_checkable
class RowChoice(Protocol):
    """Chooses the row of the index for a draw, and the next row when that fails."""

    def row(self, draw: Draw, attempt: int) -> int:
        """The row of the `attempt`-th attempt."""


@dataclass
class Prepared:
    """A batch, and the samples that were replaced in it."""

    batch: Batch | PackedBatch
    failures: list[Failure]

    def pin_memory(self) -> "Prepared":
        """Pin what a GPU receives; torch would go through all the captions and json too."""
        batch: Any = self.batch
        for name in ON_DEVICE & batch.keys():
            batch[name] = pinned(batch[name])
        return self


def pinned(value: Any) -> Any:
    """A tensor or a list of tensors in pinned memory; anything else as it is."""
    if isinstance(value, list):
        return [pinned(one) for one in value]
    return value.pin_memory() if isinstance(value, Tensor) else value


@dataclass(kw_only=True)
class Batches(Dataset[Prepared]):
    """The batches of one rank by their number, each with the samples that were replaced.

    `draws` returns the draws of a batch; `place` the shard and the key of a row; `weight`, for
    packed batches, the loss weight of each sample.
    """

    rows: RowChoice
    sample: Callable[[Draw, int], Sample]
    place: Callable[[int], tuple[str, str]]
    draws: Callable[[int], Iterable[Draw]]
    weight: Callable[[int], float] | None = None
    quarantined: set[int] = field(default_factory=set)

    def __getitem__(self, number: int) -> Prepared:
        """Batch `number`.

        Raises:
            ValueError: the sample of a position and all its alternatives fail.
        """
        samples, failures = [], []
        for draw in self.draws(number):
            failed: list[tuple[int, str]] = []
            for attempt in range(MAX_ATTEMPTS):
                row = self.rows.row(draw, attempt)
                if row in self.quarantined:
                    failed.append((row, ""))
                    continue
                try:
                    samples.append(self.sample(draw, row))
                    break
                except DecodeError as error:
                    failed.append((row, str(error)))
                    self.quarantined.add(row)
            else:
                raise ValueError(
                    f"data: position {draw.position}: {MAX_ATTEMPTS} samples in a row cannot be "
                    f"decoded, the last is {self._name(failed[-1][0])}: "
                    f"{failed[-1][1] or 'quarantined'}; "
                    "inspect the shards with `make index DEPTH=full`"
                )
            new = [(lost, why) for lost, why in failed if why]
            failures += [self._failure(lost, draw.position, why, row) for lost, why in new]
        if self.weight is not None:
            return Prepared(collate_packed(samples, weight=self.weight(number)), failures)
        return Prepared(collate(samples), failures)

    def _failure(self, row: int, position: int, reason: str, taken: int) -> Failure:
        shard, key = self.place(row)
        return Failure(row, shard, key, position, reason, self._name(taken))

    def _name(self, row: int) -> str:
        shard, key = self.place(row)
        return f"{key} of {shard}"


class Loader:
    """The batches of `numbers`; `length` is that of the whole run, also after a resume.

    Lightning counts the batches of a resumed run from the start of the run, so the length must
    include them. This class is not a DataLoader, so Lightning does not change its sampler.
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
        #: Seconds that the reader has waited for batches.
        self.waited_s = 0.0
        self._loader = DataLoader(
            batches,
            batch_size=None,
            sampler=numbers,
            num_workers=num_workers,
            prefetch_factor=prefetch if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return self.length

    def close(self) -> None:
        """Stop the workers now, by torch's private method.

        torch has no public one: the garbage collector stops them, after up to five seconds each.
        """
        workers: Any = self._loader._iterator
        self._loader._iterator = None
        if workers is not None and self._loader.num_workers:
            workers._shutdown_workers()

    def __iter__(self) -> Iterator[Batch | PackedBatch]:
        """Yield the batches, and report replaced samples."""
        batches = iter(self._loader)
        while True:
            began = time.perf_counter()
            prepared = next(batches, None)
            self.waited_s += time.perf_counter() - began
            if prepared is None:
                return
            for failure in prepared.failures:
                log.warning(
                    "data: sample %s of %s at position %d failed (%s); it is replaced by %s",
                    failure.key,
                    failure.shard,
                    failure.position,
                    failure.reason,
                    failure.replacement,
                )
                if self.on_failure is not None:
                    self.on_failure(failure)
            yield prepared.batch
