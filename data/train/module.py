"""WebDataset shards to batches for Lightning: index, plan and loaders, resumed at the exact sample.

One Lightning epoch is the whole run. The position of a run is one number, the batches consumed; it
determines every later batch, for any number of ranks and workers.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
import torch
from typing_extensions import override

from cascade.checkpoint.loops import resume_after
from cascade.grid import Grid
from cascade.text.encoder import Fetch
from data.decode.decoder import Decoder
from data.index.columns import Index
from data.index.sidecar import ensure_index
from data.plan.buckets import Draw, RankPart
from data.plan.fit import Batching
from data.plan.sets import Set, Shards, named
from data.plan.survey import Survey
from data.shards.caption import Captions
from data.shards.format import ON_DEVICE
from data.train.clip import Clipper
from data.train.layout import SampleLayout, lay_out
from data.train.loader import Batches, Loader, RowChoice
from data.train.options import (
    ClipOptions,
    IndexOptions,
    LoadingOptions,
    SelectionOptions,
    ValidationOptions,
    at_least,
)
from data.train.quarantine import Failure, Quarantine
from data.train.resume import ResumePosition
from data.train.rules import clip_rules
from data.train.source import SampleReader

log = logging.getLogger(__name__)


@final
class ShardData(pl.LightningDataModule):
    """Training and validation clips of one stage from WebDataset shards.

    Args:
        shards: a tar, a folder, a glob, a URL or a list; or sets by name, each with its `shards`
            and a `weight`, its share of the samples drawn (by default its share of all samples).
        grid: the stage's nominal grid; with `global_batch` it is the token budget of a batch.
        multiple: what frames, height and width must be multiples of: the stage's.
        max_steps: length of the run in optimizer steps; None: the trainer's.
        batching: `buckets` of one shape each at native aspect ratio, `packing` of any shapes into
            sequences, or `fixed`: the grid's shape alone.
        divides: every bucket's batch size is a multiple of it, and a packed batch has so many
            sequences: ranks × accumulation must divide it. By default the largest of 8, 4, 2 and 1
            that divides the batch.
        captions: weights of the caption sources.
        make: called with the folder of the shards before they are read, to write missing shards.
        fetch: returns the stored embedding of a caption; loader processes call it.
    """

    def __init__(
        self,
        *,
        shards: Shards,
        grid: Grid,
        global_batch: int,
        multiple: Sequence[int] = (1, 1, 1),
        seed: int = 0,
        max_steps: int | None = None,
        batching: Batching = "buckets",
        divides: int | None = None,
        captions: Mapping[str, float] | None = None,
        clips: ClipOptions | None = None,
        selection: SelectionOptions | None = None,
        validation: ValidationOptions | None = None,
        index: IndexOptions | None = None,
        loading: LoadingOptions | None = None,
        make: Callable[[Path], None] | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        super().__init__()
        at_least("global_batch", global_batch, 1)
        clips, index = clips or ClipOptions(), index or IndexOptions()
        self.selection = selection or SelectionOptions()
        self.validation, self.loading = (
            validation or ValidationOptions(),
            loading or LoadingOptions(),
        )
        self.sets, self.grid, self.global_batch = named(shards), grid, global_batch
        self.seed, self.max_steps, self.make = seed, max_steps, make
        self.rules = clip_rules(
            grid=grid,
            multiple=multiple,
            global_batch=global_batch,
            batching=batching,
            divides=divides,
            clips=clips,
            selection=self.selection,
        )
        self._ensure_index = partial(
            ensure_index,
            depth="decord" if self.loading.decord else index.depth,
            index_dir=None if index.dir is None else Path(index.dir),
            cache_dir=Path(index.cache_dir),
        )
        reader = partial(
            SampleReader,
            rules=self.rules,
            captions=Captions(**(captions or {})),
            seed=seed,
            cache_bytes=self.loading.cache_bytes,
            fetch=fetch,
            decord=self.loading.decord,
            decoder=Decoder(
                deadline_s=self.selection.deadline_s, max_pixels=self.selection.max_pixels
            ),
        )
        train = Clipper(seed=seed, random=clips.random_crop, rates=clips.rates, zooms=clips.zooms)
        self._train_reader = partial(reader, clipper=train)
        self._val_reader = partial(
            reader, clipper=Clipper(seed=seed, random=False, rates=clips.rates)
        )
        self._position = ResumePosition(seed=seed, plan=self.rules.order)
        self.failures: list[Failure] = []
        self.fingerprint = ""
        self._quarantine = Quarantine()
        self._quarantined: list[dict[str, Any]] = []
        self._layout: SampleLayout | None = None
        self._loaders: list[Loader] = []

    def prepare_data(self) -> None:
        """Write missing shards and indices; on one process of each machine."""
        if self.make is not None:
            for one in self.sets.values():
                if isinstance(one.shards, str | Path):
                    self.make(Path(one.shards))
        for one in (*self.sets.values(), *self._validation_sets().values()):
            self._ensure_index(one.found())

    @override
    def setup(self, stage: str | None = None) -> None:
        """Select and order the samples.

        Raises:
            ValueError: no sample is suitable, or more than `max_dropped` of them are dropped.
        """
        if self._layout is not None:
            return
        self._layout = lay_out(
            self.sets,
            self._validation_sets(),
            ensure_index=self._ensure_index,
            rules=self.rules,
            selection=self.selection,
            validation=self.validation,
            seed=self.seed,
        )
        self.chosen, self.pool = self._layout.chosen, self._layout.pool
        self.plan, self.held = self._layout.plan, self._layout.held
        self.fingerprint = self._layout.fingerprint

    @property
    def layout(self) -> SampleLayout:
        """The selected and ordered samples."""
        self.setup()
        assert self._layout is not None
        return self._layout

    @property
    def index(self) -> Index:
        """The index of all training sets."""
        return self.chosen.index

    def survey(self) -> Survey:
        """Figures of the plan."""
        return self.layout.survey(self.rules, self.loading.cache_bytes)

    def _validation_sets(self) -> dict[str, Set]:
        return named(self.validation.shards) if self.validation.shards else {}

    def train_dataloader(self) -> Loader:
        """The batches of this rank, from the current position of the run."""
        trainer = self._trainer()
        steps = self.max_steps or trainer.max_steps
        if steps is None or steps < 1:
            raise ValueError("data: the length of the run is required: set trainer.max_steps")
        accumulate = trainer.accumulate_grad_batches
        done = trainer.global_step * accumulate
        resume_after(trainer, done)
        self._quarantine = Quarantine(Path(trainer.default_root_dir) / "quarantine.jsonl")
        self._quarantine.load_state_dict(self._quarantined, write=trainer.is_global_zero)
        return self.train_loader(
            first=self._position.position(trainer.global_step) * accumulate,
            count=max(0, steps * accumulate - done),
            done=done,
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulate=accumulate,
            workers=self.loading.workers(trainer.num_devices),
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
        workers: int | None = None,
    ) -> Loader:
        """`count` micro batches of a rank from number `first`; `done` is added to the length.

        `workers` are loader processes; by default as many as for the only rank of this machine.
        """
        self.setup()
        self.plan.check_parts(world * accumulate)
        part = RankPart(plan=self.plan, rank=rank, world=world, accumulate=accumulate)
        return self._loader(
            rows=self.plan,
            reader=self._train_reader(
                index=self.chosen.index, rows=self.pool.rows, fit=self.chosen.fit
            ),
            quarantine=self._quarantine,
            draws=part.draws,
            weight=part.weight if self.rules.packed else None,
            numbers=range(first, first + count),
            length=count + done,
            workers=workers,
        )

    def val_dataloader(self) -> Loader:
        """The held-out samples of this rank, in a fixed order."""
        trainer = self._trainer()
        parts = trainer.world_size * trainer.accumulate_grad_batches
        return self.val_loader(
            rank=trainer.global_rank,
            world=trainer.world_size,
            size=max(1, self.global_batch // parts),
            workers=self.loading.workers(trainer.num_devices),
        )

    def val_loader(
        self, *, rank: int = 0, world: int = 1, size: int = 0, workers: int | None = None
    ) -> Loader:
        """The held-out samples of a rank; all ranks get equally many, so some may come twice."""
        held_of = self.layout.held_of
        batches = self.held.batches(rank=rank, world=world, size=size or self.global_batch)
        if sum(map(len, batches)) * world > len(self.held):
            log.warning(
                "data: %d held-out samples on %d ranks: some are validated twice",
                len(self.held),
                world,
            )
        return self._loader(
            rows=self.held,
            reader=self._val_reader(index=held_of.index, rows=self.held.rows, fit=held_of.fit),
            quarantine=None,
            draws=batches.__getitem__,
            weight=None,
            numbers=range(len(batches)),
            length=len(batches),
            workers=workers,
        )

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move what the stage computes with; the rest is read on the CPU, without a GPU sync."""
        used = {name: batch[name] for name in ON_DEVICE if name in batch}
        return {**batch, **super().transfer_batch_to_device(used, device, dataloader_idx)}

    @override
    def teardown(self, stage: str | None = None) -> None:
        """Stop the worker processes."""
        while self._loaders:
            self._loaders.pop().close()

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Stop the worker processes."""
        self.teardown()

    def state_dict(self) -> dict[str, Any]:
        """The position, the fingerprint of the data, and the samples that failed so far."""
        position = self._position.state_dict(self._trainer().global_step, self.fingerprint)
        return {**position, "quarantine": self._quarantine.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a position.

        Raises:
            ValueError: the data, the seed or the plan differs.
        """
        self._position.load_state_dict(state_dict, self.fingerprint)
        self._quarantined = state_dict["quarantine"]

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise ValueError("data: no trainer is attached; use train_loader or val_loader")
        return self.trainer

    def _loader(
        self,
        *,
        rows: RowChoice,
        reader: SampleReader,
        quarantine: Quarantine | None,
        draws: Callable[[int], Iterable[Draw]],
        weight: Callable[[int], float] | None,
        numbers: range,
        length: int,
        workers: int | None,
    ) -> Loader:
        def failed(failure: Failure) -> None:
            self.failures.append(failure)
            if quarantine is not None:
                quarantine.add(failure)

        loader = Loader(
            Batches(
                rows=rows,
                sample=reader,
                place=reader.place,
                draws=draws,
                weight=weight,
                quarantined=set(quarantine.rows) if quarantine else set(),
            ),
            numbers=numbers,
            length=length,
            num_workers=self.loading.workers(1) if workers is None else workers,
            prefetch=self.loading.prefetch,
            on_failure=failed,
        )
        self._loaders.append(loader)
        return loader
