"""Shards to batches for Lightning: index, plan and loaders, resumed at the exact sample.

One Lightning epoch is the whole run. A run's position is one number, the batches consumed; it
fixes every later batch, for any number of ranks and workers.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
import torch

from cascade.checkpoint.loops import resume_after
from data.plan.buckets import BucketPlan, Draw, Held, Part, Plan, Pool
from data.plan.packing import PackedPlan
from data.plan.sets import Chosen, choose, hold_out, named
from data.plan.survey import Survey, survey
from data.train.loader import Batches, Loader, Rows
from data.train.options import Asked
from data.train.quarantine import Failure, Quarantine
from data.train.source import Source, cached_bytes

log = logging.getLogger(__name__)


@final
class ShardData(Asked):
    """Training and validation clips of one stage from WebDataset shards."""

    def prepare_data(self) -> None:
        """Make the shards if they can be made, and index them; on one process of a machine."""
        if self.make is not None:
            for one in self.sets.values():
                if isinstance(one.shards, str | Path):
                    self.make(Path(one.shards))
        for one in (*self.sets.values(), *(named(self.val).values() if self.val else ())):
            self._ensure_index(one.found())

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 Lightning passes it
        """Read the indices, choose the samples that suit, hold some out, and lay the plan.

        Raises:
            ValueError: no sample suits, or more than `max_dropped` of them do not.
        """
        if self._ready:
            return
        chosen = self._choose(self.sets)
        self.fingerprint, self.chosen = chosen.index.fingerprint, chosen
        log.info("data: %s", chosen)
        chosen.check_dropped(self.max_dropped)
        if self.val is None:
            rows, held = hold_out(chosen, self.val_share)
            self.held_of = chosen
        else:
            self.held_of = self._choose(named(self.val))
            rows, held = chosen.rows, hold_out(self.held_of, 1.0)[1]
        if not len(held):
            log.warning("data: nothing is held out; validation sees training samples")
            held = hold_out(chosen, 1.0)[1]
        chosen.index.forget("hash")
        self.held = Held(held[: self.val_samples], self.held_of.fit, seed=self.seed)
        if self.image_share and not chosen.index.image[rows].any():
            log.warning("data: image_share is %g, but no image suits", self.image_share)
        self.pool = Pool(
            rows=rows,
            fit=chosen.fit,
            sets=chosen.sets,
            weights=chosen.weights,
            image_share=None
            if self.need.frames == 1 and not self.image_share
            else self.image_share,
        )
        make: Callable[..., Plan] = PackedPlan if self.fitter.batching == "packing" else BucketPlan
        self.plan = make(self.pool, batch=self.batch, seed=self.seed)
        self._ready = True

    @property
    def index(self) -> Any:
        """The index of all training sets."""
        return self.chosen.index

    def survey(self) -> Survey:
        """What the plan makes of the data, counted."""
        self.setup()
        clips = cached_bytes(self.chosen.index, self.pool.rows, self.chosen.fit, self.fitter)
        return survey(
            self.plan,
            self.pool,
            chosen=self.chosen,
            held=len(self.held),
            fps=self.grid.fps,
            cache_bytes={
                "index": float(sum(path.stat().st_size for path in self.chosen.index.paths)),
                "decoded clips, per worker": clips if clips <= self.cache_bytes else 0.0,
            },
        )

    def _choose(self, sets: Mapping[str, Any]) -> Chosen:
        return choose(
            sets, ensure=self._ensure_index, need=self.need, fitter=self.fitter, batch=self.batch
        )

    def train_dataloader(self) -> Loader:
        """The batches of this rank from the position reached."""
        trainer = self._trainer()
        steps = self.max_steps or trainer.max_steps
        if steps is None or steps < 1:
            raise ValueError("data: a run needs its length: set trainer.max_steps")
        accumulate = trainer.accumulate_grad_batches
        done = trainer.global_step * accumulate
        resume_after(trainer, done)
        self._quarantine = Quarantine(Path(trainer.default_root_dir) / "quarantine.jsonl")
        self._quarantine.load_state_dict(self._quarantined, write=trainer.is_global_zero)
        return self.train_loader(
            first=self._progress.position(trainer.global_step) * accumulate,
            count=max(0, steps * accumulate - done),
            done=done,
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulate=accumulate,
        )

    def train_loader(
        self,
        *,
        first: int,
        count: int,
        done: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> Loader:
        """`count` micro batches of a rank from number `first`; `done` adds to the stated length."""
        self.setup()
        self.plan.check_parts(world * accumulate)
        part = Part(plan=self.plan, rank=rank, world=world, accumulate=accumulate)
        return self._loader(
            rows=self.plan,
            source=self._train_source(
                index=self.chosen.index, rows=self.pool.rows, fit=self.chosen.fit
            ),
            quarantine=self._quarantine,
            draws=part.draws,
            weight=part.weight if self.fitter.batching == "packing" else None,
            numbers=range(first, first + count),
            length=count + done,
        )

    def val_dataloader(self) -> Loader:
        """The held-out samples of this rank, in a fixed order."""
        trainer = self._trainer()
        parts = trainer.world_size * trainer.accumulate_grad_batches
        return self.val_loader(
            rank=trainer.global_rank,
            world=trainer.world_size,
            size=max(1, self.global_batch // parts),
        )

    def val_loader(self, *, rank: int = 0, world: int = 1, size: int = 0) -> Loader:
        """The held-out samples of a rank; ranks get equally many, so some twice if need be."""
        self.setup()
        batches = self.held.batches(rank=rank, world=world, size=size or self.global_batch)
        if sum(map(len, batches)) * world > len(self.held):
            log.warning("data: %d held-out samples on %d ranks: some twice", len(self.held), world)
        return self._loader(
            rows=self.held,
            source=self._val_source(
                index=self.held_of.index, rows=self.held.rows, fit=self.held_of.fit
            ),
            quarantine=None,
            draws=batches.__getitem__,
            weight=None,
            numbers=range(len(batches)),
            length=len(batches),
        )

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Positions stay on the CPU, where draws are keyed: to read them waits for no GPU."""
        moved: dict[str, Any] = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return {**moved, "position": batch["position"]}

    def teardown(self, stage: str | None = None) -> None:  # noqa: ARG002 Lightning passes it
        """Stop the worker processes."""
        while self._loaders:
            self._loaders.pop().close()

    def on_exception(self, exception: BaseException) -> None:  # noqa: ARG002 Lightning passes it
        """Stop the worker processes."""
        self.teardown()

    def state_dict(self) -> dict[str, Any]:
        """The position, of which data, and the samples that failed so far."""
        position = self._progress.state_dict(self._trainer().global_step, self.fingerprint)
        return {**position, "quarantine": self._quarantine.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a position; of other data or another seed it is refused."""
        self._progress.load_state_dict(state_dict, self.fingerprint)
        self._quarantined = state_dict["quarantine"]

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise ValueError("data: no trainer is attached; use train_loader and val_loader")
        return self.trainer

    def _loader(
        self,
        *,
        rows: Rows,
        source: Source,
        quarantine: Quarantine | None,
        draws: Callable[[int], Iterable[Draw]],
        weight: Callable[[int], float] | None,
        numbers: range,
        length: int,
    ) -> Loader:
        def failed(failure: Failure) -> None:
            self.failures.append(failure)
            if quarantine is not None:
                quarantine.add(failure)

        loader = Loader(
            Batches(
                rows=rows,
                sample=source,
                key=source.key,
                draws=draws,
                weight=weight,
                quarantined=set(quarantine.keys) if quarantine else set(),
            ),
            numbers=numbers,
            length=length,
            num_workers=self.num_workers,
            prefetch=self.prefetch,
            on_failure=failed,
        )
        self._loaders.append(loader)
        return loader
