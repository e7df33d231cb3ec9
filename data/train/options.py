"""What a run asks of its data: the constructor of the data module, its checks, and what follows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cascade.grid import Grid
from cascade.text.encoder import Fetch
from data.decode.decoder import DEADLINE_S, Decoder
from data.decode.inspection import Depth
from data.decode.probe import MAX_PIXELS
from data.index.sidecar import CACHE_DIR, ensure_index
from data.plan.clip_shapes import Shape
from data.plan.fit import BatchBudget, Batching, Fitter
from data.plan.select import Need
from data.plan.sets import Shards, named
from data.shards.caption import Captions
from data.train.clip import Clipper, Weights
from data.train.loader import Loader
from data.train.quarantine import Failure, Quarantine
from data.train.resume import ResumePosition
from data.train.source import SampleReader


class Asked(pl.LightningDataModule):
    """What clips a stage trains on, and how; abstract: `data.train.module.ShardData` reads them.

    Args:
        shards: a tar, a folder, a glob, a URL or a list; or sets by name, each with its `shards`
            and a `weight`, its share of the samples drawn (by default as many as it has).
        grid: the stage's nominal target; with `global_batch` it is the budget of a batch.
        multiple: what frames, height and width must be multiples of: the stage's.
        batching: `buckets` of one shape each at native aspect ratio, `packing` of any shapes into
            sequences, or `fixed`: the grid's shape alone.
        divides: what every bucket's batch is a multiple of, and how many sequences a packed one
            has: ranks × accumulation must divide it. By default at most 8 that divide the batch.
        crop: (frames, height, width) that the stage trains on, cut from videos at the grid's scale.
        lengths: further numbers of frames for shorter clips.
        sizes: sides relative to the grid's for clips too small for it, largest first.
        rates, zooms: multiples of the grid's frame rate, and magnifications, each with its weight;
            drawn among those that a clip gives, and told to the network.
        min_rate: share of the target's frame rate that a clip must have itself.
        min_size: (height, width) that a clip must have besides.
        image_share: of the budget, for images.
        max_dropped: share of the samples that may be dropped before that is an error.
        captions: weights of a caption's sources.
        index_depth: how far each clip is tried where an index has to be built.
        decord: read by decord what a full index vouches for; PyAV is strict and mostly cheaper.
        make: called with the folder of the shards before anything else: it writes what is missing
            there, and nothing else.
        fetch: gives the stored embedding of a caption: loader processes read it ahead.
    """

    def __init__(
        self,
        *,
        shards: Shards,
        grid: Grid,
        global_batch: int,
        multiple: Sequence[int] = (1, 1, 1),
        seed: int = 0,
        val: Shards | None = None,
        val_share: float = 0.02,
        val_samples: int = 64,
        batching: Batching = "buckets",
        divides: int | None = None,
        crop: Sequence[int] | None = None,
        lengths: Sequence[int] = (),
        sizes: Sequence[float] = (1.0,),
        max_aspect: float = 3.0,
        max_buckets: int = 16,
        rates: Weights = ((1, 1),),
        zooms: Weights = ((1, 1),),
        random_crop: bool = True,
        image_share: float = 0.0,
        min_rate: float = 0.9,
        min_size: Sequence[int] | None = None,
        allow_upscale: bool = False,
        max_dropped: float = 0.5,
        captions: Mapping[str, float] | None = None,
        require_captions: bool = True,
        num_workers: int = 0,
        prefetch: int = 2,
        cache_bytes: int = 0,
        index_dir: str | Path | None = None,
        index_depth: Depth = "keyframes",
        cache_dir: str | Path = CACHE_DIR,
        decord: bool = False,
        deadline_s: float = DEADLINE_S,
        max_pixels: int = MAX_PIXELS,
        max_steps: int | None = None,
        make: Callable[[Path], None] | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("global_batch", global_batch, 1),
            ("val_samples", val_samples, 1),
            ("max_buckets", max_buckets, 1),
            ("max_aspect", max_aspect, 1),
            ("min_rate", min_rate, 0),
        ):
            if value < least:
                raise ValueError(f"data.{name} must be at least {least}, got {value}")
        self.sets, self.val, self.grid, self.global_batch = named(shards), val, grid, global_batch
        self.seed, self.val_share, self.val_samples = seed, val_share, val_samples
        self.image_share, self.max_dropped = image_share, max_dropped
        self.num_workers, self.prefetch, self.max_steps = num_workers, prefetch, max_steps
        self.cache_bytes, self.make = cache_bytes, make
        self._ensure_index = partial(
            ensure_index,
            depth=index_depth,
            index_dir=None if index_dir is None else Path(index_dir),
            cache_dir=Path(cache_dir),
        )
        train = Clipper(seed=seed, random=random_crop, rates=rates, zooms=zooms)
        shape = tuple(crop or grid.shape)
        self.lengths = _lengths(shape[0], lengths, multiple[0])
        self.need = Need(
            frames=self.lengths[-1],
            fps=grid.fps,
            rates=tuple(train.rates),
            min_rate=min_rate,
            min_size=_pair(min_size or (0, 0)),
            images=image_share > 0,
            captions=require_captions,
        )
        self.fitter = Fitter(
            grid=grid,
            multiple=_triple(multiple),
            crop=None if crop is None else _triple(crop),
            batching=batching,
            lengths=self.lengths,
            sizes=tuple(sizes),
            max_aspect=max_aspect,
            max_buckets=max_buckets,
            allow_upscale=allow_upscale,
        )
        frames, height, width = shape
        self.batch = BatchBudget(
            clips=global_batch,
            grid=Shape(kind="video", frames=frames, height=height, width=width),
            multiple=_triple(multiple),
            divides=divides or next(n for n in (8, 4, 2, 1) if global_batch % n == 0),
            same=batching == "fixed",
        )
        source = partial(
            SampleReader,
            fitter=self.fitter,
            need=self.need,
            captions=Captions(**(captions or {})),
            seed=seed,
            cache_bytes=cache_bytes,
            fetch=fetch,
            decord=decord,
            decoder=Decoder(deadline_s=deadline_s, max_pixels=max_pixels),
        )
        held = Clipper(seed=seed, random=False, rates=rates)
        self._train_source = partial(source, clipper=train)
        self._val_source = partial(source, clipper=held)
        order = f"{batching} of {global_batch} {shape} by {self.batch.divides}"
        self._progress = ResumePosition(seed=seed, plan=order)
        self.failures: list[Failure] = []
        self.fingerprint = ""
        self._quarantine = Quarantine()
        self._quarantined: list[dict[str, Any]] = []
        self._ready = False
        self._loaders: list[Loader] = []


def _lengths(frames: int, further: Sequence[int], multiple: int) -> tuple[int, ...]:
    """Numbers of frames that clips may have, longest first.

    Raises:
        ValueError: one is longer than the grid's, or not a multiple of what the network takes.
    """
    for length in further:
        if not 0 < length < frames or length % multiple:
            raise ValueError(
                f"data.lengths: {length} must be a multiple of {multiple} below {frames}, "
                "the stage's own"
            )
    return tuple(sorted({frames, *further}, reverse=True))


def _pair(sides: Sequence[int]) -> tuple[int, int]:
    height, width = sides
    return int(height), int(width)


def _triple(sides: Sequence[int]) -> tuple[int, int, int]:
    frames, height, width = sides
    return int(frames), int(height), int(width)
