"""Encodes the captions of a shard into its file of embeddings; each text is encoded once.

All captions are tokenized first, so the size of the file is known before the first is encoded.
Batches have captions of similar length; each batch is written to disk at once.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float16, UInt64
from rich.progress import Progress, track

from cascade.text.embeddings import SUFFIX, EmbeddingFile, Layout, Made, digest, heads
from cascade.text.encoder_files import find_encoder, fingerprint, read_config
from cascade.text.t5 import T5Text
from data.embed.partial import PartFile, part_path
from data.shards.caption import Captions, find_captions, read_beside, read_captions

log = logging.getLogger(__name__)

_TOKENIZED_AT_ONCE = 1024
_LARGEST = float(np.finfo(np.float16).max)

Rows = dict[bytes, tuple[EmbeddingFile, int]]
"""The file and row of texts that are already encoded, by digest."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The embeddings to make for one shard: its texts by length, and the layout of its file."""

    path: Path
    texts: list[str]
    layout: Layout
    cut: int
    """Number of texts longer than the encoder's maximum."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Counts and sizes of the embeddings of a set of shards, known from the tokenizer."""

    texts: int
    tokens: int
    cut: int
    bytes: int
    left: dict[Path, int]
    """Bytes left to write, by folder."""
    shared: UInt64[np.ndarray, " n"]
    """The first bytes of the digests of texts that occur in more than one shard."""


def embeddings_path(index: Path) -> Path:
    """The path of a shard's embeddings: beside its index."""
    return index.with_name(index.name.removesuffix(".index.parquet") + SUFFIX)


def texts_of(shard: str, index: Path, captions: Captions) -> list[str]:
    """The distinct captions of a shard that training may draw, and '', in order of digest."""
    made = read_captions(find_captions(shard, index))
    texts = {""}
    for row in pq.read_table(index).to_pylist():
        if row["reason"]:
            continue
        try:
            text, state = read_beside(shard, row)
        except ValueError as error:
            log.warning("%s: %s: %s; training cannot use this sample", shard, row["key"], error)
            continue
        texts.update(captions.found(text, state, made.get(row["key"])))
    return sorted(texts, key=digest)


class Embedder:
    """Makes the embeddings of shards with one encoder."""

    def __init__(
        self,
        *,
        encoder: str,
        captions: Captions,
        max_tokens: int = 256,
        dtype: str = "bfloat16",
        download: bool = False,
        device: str = "cpu",
        batch_tokens: int = 16384,
        replace: bool = False,
    ) -> None:
        folder = find_encoder(encoder, download=download)
        self.captions, self.batch_tokens, self.replace = captions, batch_tokens, replace
        self.text = T5Text(
            name=str(folder),
            width=read_config(folder)["d_model"],
            max_tokens=max_tokens,
            dtype=dtype,
        ).to(device)
        self.made = Made(
            fingerprint=fingerprint(folder), encoder=Path(encoder).name, max_tokens=max_tokens
        )
        self._shared: Rows = {}

    def finished(self, path: Path) -> EmbeddingFile | None:
        """The finished embeddings of this encoder at `path`, if there are any.

        Raises:
            ValueError: they are of another encoder, and `replace` is false.
        """
        if not path.is_file():
            return None
        file = EmbeddingFile(path)
        if file.made.fingerprint == self.made.fingerprint and (
            file.made.max_tokens == self.made.max_tokens
        ):
            return file
        if not self.replace:
            raise ValueError(
                f"{path}: made by the encoder {file.made.fingerprint} ({file.made.encoder}) at "
                f"{file.made.max_tokens} tokens, but this one is {self.made.fingerprint} "
                f"({self.made.encoder}) at {self.made.max_tokens}; keep the old ones, or replace "
                "them with replace=true"
            )
        return None

    def work(self, shard: str, index: Path) -> Work | None:
        """The embeddings to make for a shard; None if all exist."""
        path, texts = embeddings_path(index), texts_of(shard, index, self.captions)
        digests = [digest(text) for text in texts]
        file = self.finished(path)
        if file is not None and set(digests) <= {d.tobytes() for d in file.digests}:
            return None
        lengths, cut = self._lengths(texts)
        by_length = np.argsort(lengths, kind="stable")
        starts = np.zeros(len(texts), np.int64)
        starts[by_length] = np.cumsum(lengths[by_length], dtype=np.int64) - lengths[by_length]
        layout = Layout(
            digests=np.frombuffer(b"".join(digests), np.uint8).reshape(len(texts), -1),
            starts=starts,
            lengths=lengths,
            width=self.text.width,
            made=self.made,
        )
        return Work(path=path, texts=[texts[i] for i in by_length], layout=layout, cut=cut)

    def _lengths(self, texts: Sequence[str]) -> tuple[Any, int]:
        sizes: list[int] = []
        for i in range(0, len(texts), _TOKENIZED_AT_ONCE):
            sizes += map(len, self.text.tokenize(texts[i : i + _TOKENIZED_AT_ONCE]))
        lengths = np.array(sizes, np.int32)
        most = self.made.max_tokens
        return np.minimum(lengths, most), int((lengths > most).sum())

    def forecast(self, shards: Sequence[str], indices: Sequence[Path]) -> Forecast:
        """Count the embeddings of all shards, and compute their exact size."""
        texts, tokens, cut, size = 0, 0, 0, 0
        left: dict[Path, int] = {}
        seen = [np.zeros(0, np.uint64)]
        pairs = list(zip(shards, indices, strict=True))
        for shard, index in track(pairs, description="Counting tokens"):
            work, path = self.work(shard, index), embeddings_path(index)
            if work is None:
                file = EmbeddingFile(path)
                seen.append(heads(file.digests))
                texts, tokens = texts + len(file.digests), tokens + int(file.lengths.sum())
                size += path.stat().st_size
                continue
            seen.append(heads(work.layout.digests))
            texts, tokens = texts + len(work.texts), tokens + work.layout.rows
            size, cut = size + work.layout.bytes, cut + work.cut
            part = part_path(path)
            written = part.stat().st_blocks * 512 if part.is_file() else 0
            left[path.parent] = left.get(path.parent, 0) + max(0, work.layout.bytes - written)
        values, counts = np.unique(np.concatenate(seen), return_counts=True)
        return Forecast(
            texts=texts, tokens=tokens, cut=cut, bytes=size, left=left, shared=values[counts > 1]
        )

    def make(self, work: Work, *, progress: Progress | None = None) -> None:
        """Encode the remaining texts of a shard; the file gets its name when it is complete.

        Raises:
            ValueError: an embedding overflows 16-bit floats, or another process has the lock.
        """
        old = self.finished(work.path)
        known = dict(self._shared)
        if old is not None:
            known |= {d.tobytes(): (old, i) for i, d in enumerate(old.digests)}
        lengths = np.sort(work.layout.lengths)
        with PartFile(work.path, work.layout) as part:
            name, total = work.path.name, work.layout.rows
            bar = progress.add_task(name, total=total, completed=part.rows) if progress else None
            for last in _batches(lengths, self.batch_tokens):
                if last > part.done:
                    texts = work.texts[part.done : last]
                    part.write(self._encode(texts, known), texts=len(texts))
                    if progress and bar is not None:
                        progress.update(bar, completed=part.rows)
            part.finish()

    def share(self, path: Path, shared: UInt64[np.ndarray, " n"]) -> None:
        """Remember the rows of texts that other shards have too."""
        file = EmbeddingFile(path)
        for row in np.flatnonzero(np.isin(heads(file.digests), shared)).tolist():
            self._shared.setdefault(file.digests[row].tobytes(), (file, row))

    def _encode(self, texts: Sequence[str], known: Rows) -> Float16[np.ndarray, "rows d"]:
        found = {text: known[d] for text in texts if (d := digest(text)) in known}
        new = [text for text in texts if text not in found]
        parts = {text: file.rows(row) for text, (file, row) in found.items()}
        if new:
            ids = [self.text.cut(one) for one in self.text.tokenize(new)]
            features, mask = self.text.encode(ids)
            for text, one, length in zip(new, features, mask.sum(1).tolist(), strict=True):
                parts[text] = _half(text, one[:length])
        return np.concatenate([parts[text] for text in texts])


def _half(text: str, features: torch.Tensor) -> Float16[np.ndarray, "l d"]:
    """Convert to 16-bit floats, whose 11 significant bits hold the 8 of bfloat16 exactly.

    Raises:
        ValueError: a value overflows.
    """
    largest = float(features.abs().max())
    if not largest <= _LARGEST:
        raise ValueError(
            f"embeddings: the encoder returns {largest:g} for {text[:80]!r}, which exceeds the "
            f"maximum {_LARGEST:g} of 16-bit floats; encode with dtype=float32 (T5 may overflow "
            "in float16), and if that does not help, train without stored embeddings"
        )
    return np.asarray(features.to("cpu", torch.float16).numpy())


def _batches(lengths: Any, tokens: int) -> Iterator[int]:
    """The end of each batch of at most `tokens` tokens with padding; `lengths` ascend."""
    first = 0
    for i, length in enumerate(lengths.tolist()):
        if i > first and (i + 1 - first) * length > tokens:
            yield i
            first = i
    yield len(lengths)
