"""Options of the data module, grouped by subject; `conf/data/shards.yaml` describes every key."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade.cores import loader_processes
from cascade.media.reason import MAX_PIXELS
from data.decode.decoder import DEADLINE_S
from data.decode.decord import has_decord
from data.decode.inspection import Depth
from data.index.sidecar import CACHE_DIR
from data.plan.sets import Shards
from data.train.clip import Weights


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """How a training clip is cut from a video.

    Args:
        crop: (frames, height, width) cut from videos at the scale of the grid; None: whole frames.
        lengths: additional numbers of frames, for shorter clips.
        sizes: sides relative to the grid's, for clips smaller than the grid, largest first.
        max_aspect: largest aspect ratio of a shape; other clips are cropped to it.
        max_buckets: number of shapes per length and size.
        rates: multiples of the grid's frame rate, each with its weight.
        zooms: magnifications of at least 1, each with its weight.
        random_crop: whether window and crop are random; else the first window and the centre.
        allow_upscale: whether a clip may be enlarged.
    """

    crop: Sequence[int] | None = None
    lengths: Sequence[int] = ()
    sizes: Sequence[float] = (1.0,)
    max_aspect: float = 3.0
    max_buckets: int = 16
    rates: Weights = ((1, 1),)
    zooms: Weights = ((1, 1),)
    random_crop: bool = True
    allow_upscale: bool = False

    def __post_init__(self) -> None:
        at_least("clips.max_aspect", self.max_aspect, 1)
        at_least("clips.max_buckets", self.max_buckets, 1)


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Which samples are used.

    Args:
        image_share: share of the token budget for images.
        min_rate: minimum frame rate of a clip relative to the grid's.
        min_size: minimum (height, width) of a clip.
        max_dropped: largest share of samples that may be dropped.
        require_captions: whether a sample without a caption is dropped.
        max_pixels: largest number of pixels of a frame; a larger one counts as undecodable.
        deadline_s: seconds of decoding after which a sample counts as undecodable.
    """

    image_share: float = 0.0
    min_rate: float = 0.9
    min_size: Sequence[int] | None = None
    max_dropped: float = 0.5
    require_captions: bool = True
    max_pixels: int = MAX_PIXELS
    deadline_s: float = DEADLINE_S

    def __post_init__(self) -> None:
        at_least("selection.min_rate", self.min_rate, 0)


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Held-out samples: from `shards`, or else a `share` of the training samples.

    `samples` is the number that is validated on, at most.
    """

    shards: Shards | None = None
    share: float = 0.02
    samples: int = 64

    def __post_init__(self) -> None:
        at_least("validation.samples", self.samples, 1)


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Where the index of each shard is, and how deep it is built when it is missing.

    Without `dir` the index is beside its shard, or in `cache_dir` if that folder is read-only.
    """

    depth: Depth = "keyframes"
    dir: str | Path | None = None
    cache_dir: str | Path = CACHE_DIR


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """Options of speed and memory; they change no sample.

    Args:
        num_workers: loader processes of each rank; 0: the training process loads; None: this
            machine's cores but two, divided among its ranks, and at least one.
        prefetch: batches that each worker prepares ahead.
        cache_bytes: size of a rank's cache of decoded videos, which its loader processes share;
            used only if all fit.
        decord: whether decord decodes the videos for which an index of depth `decord`, which is
            built if it is missing, has verified it.
    """

    num_workers: int | None = 0
    prefetch: int = 2
    cache_bytes: int = 0
    decord: bool = False

    def __post_init__(self) -> None:
        if self.decord and not has_decord():
            raise ValueError(
                "data.loading.decord=true: decord is not installed (its wheels are for x86-64 "
                "Linux); set it to false, and PyAV decodes"
            )

    def workers(self, ranks: int) -> int:
        """The number of loader processes of one of `ranks` ranks on this machine."""
        return loader_processes(self.num_workers, ranks)


def at_least(name: str, value: float, least: float) -> None:
    """Refuse an option below its minimum, with a ValueError."""
    if value < least:
        raise ValueError(f"data.{name} must be at least {least}, got {value}")
