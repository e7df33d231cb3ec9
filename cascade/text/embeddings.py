"""Text embeddings on disk, looked up by caption in memory-mapped files.

A file is safetensors, so reading it executes no code. `features` (rows, width) holds one row per
token, the captions one after the other; `starts` and `lengths` give the rows of each caption;
`digests`, sorted, are the BLAKE2b hashes of the captions' UTF-8. The metadata names the encoder.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Int32, Int64, UInt8, UInt64
from safetensors import SafetensorError, safe_open

FORMAT = "1"
SUFFIX = ".embeddings.safetensors"
DIGEST_BYTES = 16
_OPEN_FILES = 256

Paths = str | Path | Sequence[str | Path]


def digest(caption: str) -> bytes:
    """The hash by which a caption is looked up."""
    text = caption.encode("utf-8", errors="replace")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


def find_files(spec: Paths) -> list[Path]:
    """The embedding files that `spec` names: a file, a folder, a glob, or a list of these.

    Raises:
        ValueError: no file matches.
    """
    if not isinstance(spec, str | Path):
        return list(dict.fromkeys(path for one in spec for path in find_files(one)))
    path = Path(spec).expanduser()
    if path.is_dir():
        found = sorted(path.glob(f"*{SUFFIX}"))
    elif path.is_file():
        found = [path]
    else:
        base = Path(path.anchor)
        found = sorted(base.glob(str(path.relative_to(base))))
    if not found:
        raise ValueError(
            f"embeddings: no file *{SUFFIX} at {str(spec)!r}; make them with "
            "make embeddings SHARDS=… ENCODER=…"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a file's embeddings were made: the encoder, and the tokens at which it truncates."""

    fingerprint: str
    encoder: str
    max_tokens: int

    def metadata(self) -> dict[str, str]:
        """The entries of the safetensors header."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "encoder": self.encoder,
            "max_tokens": str(self.max_tokens),
        }


class EmbeddingFile:
    """One embedding file; only its digests, starts and lengths are held in memory.

    Raises:
        ValueError: the file is damaged, or has another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="np") as file:
                header: dict[str, str] = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError(
                        f"{path}: has format {header.get('format')!r}, but this version of Cascade "
                        f"reads embeddings of format {FORMAT!r}"
                    )
                self.made = Made(
                    fingerprint=header["fingerprint"],
                    encoder=header["encoder"],
                    max_tokens=int(header["max_tokens"]),
                )
                self.digests: UInt8[np.ndarray, "n bytes"] = file.get_tensor("digests")
                self.starts: Int64[np.ndarray, " n"] = file.get_tensor("starts")
                self.lengths: Int32[np.ndarray, " n"] = file.get_tensor("lengths")
                rows, self.width = self.features().get_shape()
        except (SafetensorError, OSError, KeyError) as error:
            raise ValueError(f"{path}: is not a complete embedding file: {error}") from error
        ends = self.starts + self.lengths
        if len(self.digests) != len(ends) or ends.max(initial=0) > rows or self.starts.min() < 0:
            raise ValueError(f"{path}: its index points outside its {rows} rows")

    def features(self) -> Any:
        """The rows, memory-mapped: a slice reads only its own rows."""
        file: Any = safe_open(self.path, framework="np")
        return file.get_slice("features")

    def rows(self, number: int, features: Any = None) -> Float16[np.ndarray, "l d"]:
        """The embedding of caption `number`; `features` if the file is already open."""
        start = int(self.starts[number])
        mapped = self.features() if features is None else features
        return np.asarray(mapped[start : start + int(self.lengths[number])])


class Embeddings:
    """Embeddings of captions from many files, each opened at its first use.

    They take 44 bytes of memory per caption, which forked workers share, and can be pickled.
    """

    def __init__(self, files: Sequence[EmbeddingFile]) -> None:
        widths = {file.width for file in files}
        if len(widths) != 1:
            raise ValueError(
                f"embeddings: the files must have one width, but have {sorted(widths)}; name the "
                "files of one encoder"
            )
        self.files = list(files)
        self.width: int = widths.pop()
        keys = np.concatenate([heads(file.digests) for file in files])
        order = np.argsort(keys, kind="stable")
        self._heads = keys[order]
        owner = np.repeat(np.arange(len(files), dtype=np.int32), [len(f.digests) for f in files])
        row = np.concatenate([np.arange(len(f.digests), dtype=np.int32) for f in files])
        self._owner, self._row = owner[order], row[order]
        self._open: OrderedDict[int, Any] = OrderedDict()

    @classmethod
    def open(
        cls, paths: Paths, *, fingerprint: str | None = None, max_tokens: int | None = None
    ) -> "Embeddings":
        """The embeddings in `paths`, checked against the expected encoder and length.

        Raises:
            ValueError: no file is there, or one has another encoder or length.
        """
        files = [EmbeddingFile(path) for path in find_files(paths)]
        for file in files:
            _check(file, fingerprint=fingerprint or files[0].made.fingerprint, cut=max_tokens)
        return cls(files)

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, caption: str) -> bool:
        return self._find(caption) is not None

    def get(self, caption: str) -> Float16[np.ndarray, "l d"] | None:
        """The embedding of a caption without padding; None if it has none."""
        found = self._find(caption)
        if found is None:
            return None
        number, row = found
        return self.files[number].rows(row, self._features(number))

    def _find(self, caption: str) -> tuple[int, int] | None:
        wanted = digest(caption)
        head = np.frombuffer(wanted[:8], ">u8").astype(np.uint64)[0]
        at = int(np.searchsorted(self._heads, head))
        while at < len(self._heads) and self._heads[at] == head:
            number, row = int(self._owner[at]), int(self._row[at])
            if self.files[number].digests[row].tobytes() == wanted:
                return number, row
            at += 1
        return None

    def _features(self, number: int) -> Any:
        if number not in self._open:
            self._open[number] = self.files[number].features()
            while len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def __deepcopy__(self, _: Any) -> "Embeddings":
        return self


def heads(digests: UInt8[np.ndarray, "n bytes"]) -> UInt64[np.ndarray, " n"]:
    """The first eight bytes of each digest as a number."""
    first = np.ascontiguousarray(digests[:, :8]).view(">u8")
    return np.asarray(first.reshape(-1).astype(np.uint64))


def _check(file: EmbeddingFile, *, fingerprint: str, cut: int | None) -> None:
    made = file.made
    again = "make them again: make embeddings SHARDS=… ENCODER=… ARGS='replace=true'"
    if made.fingerprint != fingerprint:
        raise ValueError(
            f"{file.path}: made by the encoder {made.fingerprint} ({made.encoder}), but "
            f"{fingerprint} is needed; name that encoder's files, or {again}"
        )
    if cut is not None and made.max_tokens != cut:
        raise ValueError(
            f"{file.path}: captions are truncated at {made.max_tokens} tokens, but {cut} are "
            f"needed; set stage.text.max_tokens={made.max_tokens}, or {again}"
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of an embedding file, known before encoding starts.

    `digests` are sorted; `starts` gives the order of the rows in `features`.
    """

    digests: UInt8[np.ndarray, "n bytes"]
    starts: Int64[np.ndarray, " n"]
    lengths: Int32[np.ndarray, " n"]
    width: int
    made: Made

    @property
    def rows(self) -> int:
        """The number of tokens of all captions."""
        return int(self.lengths.sum(dtype=np.int64))

    def head(self) -> bytes:
        """The file's bytes before the features."""
        tables = {"starts": self.starts, "lengths": self.lengths, "digests": self.digests}
        entries: dict[str, Any] = {"__metadata__": self.made.metadata()}
        at = 0
        for name, table in tables.items():
            kind = {"int64": "I64", "int32": "I32", "uint8": "U8"}[table.dtype.name]
            entries[name] = {
                "dtype": kind,
                "shape": list(table.shape),
                "data_offsets": [at, at + table.nbytes],
            }
            at += table.nbytes
        entries["features"] = {
            "dtype": "F16",
            "shape": [self.rows, self.width],
            "data_offsets": [at, at + 2 * self.rows * self.width],
        }
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return (
            len(text).to_bytes(8, "little") + text + b"".join(t.tobytes() for t in tables.values())
        )

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return len(self.head()) + 2 * self.rows * self.width
