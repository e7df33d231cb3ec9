"""Shards to batches for Lightning: index, plan and loaders, resumed at the exact sample.

One Lightning epoch is the whole run. A run's position is one number, the samples consumed; with a
fixed global batch it fixes every later batch, for any number of ranks and workers.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cascade.grid import Grid
from data.caption import Captions
from data.clip import Clipper
from data.decode import DEADLINE_S
from data.index import CACHE_DIR, ensure_index
from data.loader import Batches, Failure, Loader
from data.plan import Fixed, Plan, Rows, held_positions, rank_batch, rank_positions
from data.probe import MAX_PIXELS
from data.resume import Progress, count_batches
from data.select import Index, Need, Selection, by_hash, select, split
from data.source import Source
from data.store import find_shards

log = logging.getLogger(__name__)

Shards = str | Path | Sequence[str | Path]


class ShardData(pl.LightningDataModule):
    """Training and validation clips of one stage from WebDataset shards.

    `grid` is the stage's nominal target; `crop` (frames, height, width) is what it trains on, at
    the grid's scale, in steps of `align`; without `random_crop` always the first window and the
    middle. `min_size` (height, width) is the grid's unless given. `make` is called with the folder
    of the shards before anything else: it writes what is missing there, and nothing else.
    """

    def __init__(
        self,
        *,
        shards: Shards,
        grid: Grid,
        global_batch: int,
        seed: int = 0,
        val: Shards | None = None,
        val_share: float = 0.02,
        val_samples: int = 64,
        crop: Sequence[int] | None = None,
        align: Sequence[int] = (1, 1, 1),
        random_crop: bool = True,
        image_share: float = 0.0,
        min_size: Sequence[int] | None = None,
        allow_upscale: bool = False,
        captions: Captions | None = None,
        require_captions: bool = True,
        num_workers: int = 0,
        prefetch: int = 2,
        cache_bytes: int = 0,
        index_dir: str | Path | None = None,
        cache_dir: str | Path = CACHE_DIR,
        deadline_s: float = DEADLINE_S,
        max_pixels: int = MAX_PIXELS,
        max_steps: int | None = None,
        make: Callable[[Path], None] | None = None,
    ) -> None:
        super().__init__()
        self.shards, self.val, self.grid, self.global_batch = shards, val, grid, global_batch
        self.seed, self.val_share, self.val_samples = seed, val_share, val_samples
        self.crop, self.align, self.image_share = crop, align, image_share
        self.num_workers, self.prefetch, self.max_steps = num_workers, prefetch, max_steps
        self.index_dir = None if index_dir is None else Path(index_dir)
        self.cache_dir, self.make = Path(cache_dir), make
        height, width = (0, 0) if allow_upscale else (min_size or (grid.height, grid.width))
        self.need = Need(
            frames=(crop or grid.shape)[0],
            fps=grid.fps,
            min_height=height,
            min_width=width,
            images=image_share > 0,
            captions=require_captions,
        )
        clipper = partial(Clipper, grid=grid, crop=crop, align=align, seed=seed)
        source = partial(
            Source,
            captions=captions or Captions(),
            seed=seed,
            cache_bytes=cache_bytes,
            deadline_s=deadline_s,
            max_pixels=max_pixels,
        )
        self._train_source = partial(source, clipper=clipper(random=random_crop))
        self._val_source = partial(source, clipper=clipper(random=False))
        self.failures: list[Failure] = []
        self.dropped: Counter[str] = Counter()
        self.fingerprint = ""
        self._progress = Progress(global_batch=global_batch, seed=seed)
        self._ready = False
        self._loaders: list[Loader] = []

    def prepare_data(self) -> None:
        """Make the shards if they can be made, and index them; on one process of a machine."""
        if self.make is not None and isinstance(self.shards, str | Path):
            self.make(Path(self.shards))
        for spec in (self.shards, self.val):
            if spec is not None:
                ensure_index(find_shards(spec), index_dir=self.index_dir, cache_dir=self.cache_dir)

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 Lightning passes it
        """Read the indices, choose the samples that suit, hold some out, and lay the plan."""
        if self._ready:
            return
        self.index, chosen = self._choose(self.shards)
        self.fingerprint = self.index.fingerprint
        videos, images, self.held_index = chosen.videos, chosen.images, self.index
        if self.val is None:
            videos, held = split(self.index, videos, self.val_share)
            images, _ = split(self.index, images, self.val_share)
        else:
            self.held_index, own = self._choose(self.val)
            held = by_hash(self.held_index, own.videos)
        if not len(held):
            log.warning(
                "data: nothing is held out; validation sees %d training samples", len(videos)
            )
            held = videos if len(videos) else images
        self.held = held[: self.val_samples]
        if self.image_share and not len(images):
            log.warning("data: image_share is %g, but no image suits", self.image_share)
        self.plan = Plan(
            videos=videos,
            images=images,
            seed=self.seed,
            global_batch=self.global_batch,
            image_share=self.image_share,
        )
        log.info(
            "data: %d videos and %d images to train on, %d to validate on; not used: %s",
            *(len(videos), len(images), len(self.held), dict(self.dropped) or "none"),
        )
        self._ready = True

    def _choose(self, spec: Shards) -> tuple[Index, Selection]:
        shards = find_shards(spec)
        paths = ensure_index(shards, index_dir=self.index_dir, cache_dir=self.cache_dir)
        index = Index.load(shards, paths)
        chosen = select(index, self.need)
        self.dropped.update(chosen.dropped)
        return index, chosen

    def train_dataloader(self) -> Loader:
        """The batches of this rank from the position reached."""
        trainer = self._trainer()
        steps = self.max_steps or trainer.max_steps
        if steps is None or steps < 1:
            raise ValueError("data: a run needs its length: set trainer.max_steps")
        accumulate = trainer.accumulate_grad_batches
        done = trainer.global_step * accumulate
        count_batches(trainer, done)
        return self.train_loader(
            first=self._progress.position(trainer.global_step) * accumulate // self.global_batch,
            count=max(0, steps * accumulate - done),
            done=done,
            rank=trainer.global_rank,
            world=trainer.world_size,
            size=self._rank_batch(trainer),
        )

    def train_loader(
        self, *, first: int, count: int, done: int = 0, rank: int = 0, world: int = 1, size: int = 0
    ) -> Loader:
        """`count` batches of a rank from number `first`; `done` adds to the stated length."""
        self.setup()
        size = size or rank_batch(global_batch=self.global_batch, world=world, accumulate=1)
        return self._loader(
            rows=self.plan,
            source=self._train_source(index=self.index, rows=self.plan.all_rows()),
            positions=partial(rank_positions, rank=rank, world=world, size=size),
            numbers=range(first, first + count),
            length=count + done,
        )

    def val_dataloader(self) -> Loader:
        """The held-out samples of this rank, in a fixed order."""
        trainer = self._trainer()
        return self.val_loader(
            rank=trainer.global_rank, world=trainer.world_size, size=self._rank_batch(trainer)
        )

    def val_loader(self, *, rank: int = 0, world: int = 1, size: int = 0) -> Loader:
        """The held-out samples of a rank; ranks get equally many, so some twice if need be."""
        self.setup()
        size = size or rank_batch(global_batch=self.global_batch, world=world, accumulate=1)
        if len(self.held) % world:
            log.warning("data: %d held-out samples on %d ranks: some twice", len(self.held), world)
        chunks = held_positions(len(self.held), rank=rank, world=world, size=size)
        return self._loader(
            rows=Fixed(self.held, seed=self.seed),
            source=self._val_source(index=self.held_index, rows=self.held),
            positions=chunks.__getitem__,
            numbers=range(len(chunks)),
            length=len(chunks),
        )

    def teardown(self, stage: str | None = None) -> None:  # noqa: ARG002 Lightning passes it
        """Stop the worker processes."""
        while self._loaders:
            self._loaders.pop().close()

    def on_exception(self, exception: BaseException) -> None:  # noqa: ARG002 Lightning passes it
        """Stop the worker processes."""
        self.teardown()

    def state_dict(self) -> dict[str, Any]:
        """The position, and of which data."""
        return self._progress.state_dict(self._trainer().global_step, self.fingerprint)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a position; of other data or another seed it is refused."""
        self._progress.load_state_dict(state_dict, self.fingerprint)

    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise ValueError("data: no trainer is attached; use train_loader and val_loader")
        return self.trainer

    def _rank_batch(self, trainer: pl.Trainer) -> int:
        return rank_batch(
            global_batch=self.global_batch,
            world=trainer.world_size,
            accumulate=trainer.accumulate_grad_batches,
        )

    def _loader(
        self,
        *,
        rows: Rows,
        source: Source,
        positions: Callable[[int], Sequence[int]],
        numbers: range,
        length: int,
    ) -> Loader:
        loader = Loader(
            Batches(rows=rows, sample=source, key=source.key, positions=positions),
            numbers=numbers,
            length=length,
            num_workers=self.num_workers,
            prefetch=self.prefetch,
            on_failure=self.failures.append,
        )
        self._loaders.append(loader)
        return loader
