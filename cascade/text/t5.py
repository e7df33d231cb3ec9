"""A frozen T5 text encoder, or its stored embeddings read from disk instead."""

import importlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cascade.text.embeddings import Embeddings
from cascade.text.encoder import Fetch, Known, TextEncoder, TextFeatures
from cascade.text.encoder_files import NoEncoderError, find_encoder, fingerprint, read_config


class T5Text(TextEncoder):
    """A frozen T5 encoder from a folder or, with `download`, from the hub.

    It is loaded at its first use. It is not part of the stage's parameters, state, EMA weights or
    checkpoints, but moves to the stage's device. `width` is an argument, so that a stage can be
    built and counted on a machine without the encoder's files.

    With `embeddings` (files, folders or globs written by `make embeddings`) the encoder is not
    loaded: every caption is looked up. They must be made by the encoder with `fingerprint` or, if
    that is None, by the encoder whose files are at `name`.
    """

    def __init__(
        self,
        *,
        name: str,
        width: int,
        max_tokens: int = 256,
        download: bool = False,
        dtype: str = "bfloat16",
        embeddings: str | Sequence[str] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.width, self.max_tokens = name, width, max_tokens
        self.download, self.dtype = download, dtype
        self.embeddings, self.fingerprint = embeddings, fingerprint
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # moves with the stage
        self._loaded: dict[str, Any] = {}  # in a dict, so that nn.Module does not register it
        self._store: Embeddings | None = None

    def tokenizer(self) -> Any:
        """The tokenizer, loaded without the encoder.

        Raises:
            ValueError: transformers or the files are missing, or width or fingerprint differ.
        """
        if "tokenizer" not in self._loaded:
            self._loaded["tokenizer"] = self._load("AutoTokenizer")
        return self._loaded["tokenizer"]

    def encoder(self) -> Any:
        """The frozen encoder.

        Raises:
            ValueError: transformers or the files are missing, or width or fingerprint differ.
        """
        if "encoder" not in self._loaded:
            encoder = self._load("T5EncoderModel", dtype=getattr(torch, self.dtype))
            self._loaded["encoder"] = encoder.eval().requires_grad_(False)
        return self._loaded["encoder"]

    def _load(self, kind: str, **options: Any) -> Any:
        try:
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise ValueError(
                "T5Text: needs transformers; install it by pip install 'cascade[text]'"
            ) from error
        folder = find_encoder(self.name, download=self.download)
        self._check(read_config(folder)["d_model"], folder)
        try:
            maker = getattr(transformers, kind)
            return maker.from_pretrained(folder, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"T5Text: cannot load {folder}: {error}") from error

    def _check(self, width: int, folder: Path) -> None:
        if width != self.width:
            raise ValueError(
                f"T5Text: {self.name!r} has width {width}, but the stage has "
                f"{self.width}; set stage.text.width={width}"
            )
        if self.fingerprint is not None and fingerprint(folder) != self.fingerprint:
            raise ValueError(
                f"T5Text: {self.name!r} is the encoder {fingerprint(folder)}, but the stage was "
                f"trained with {self.fingerprint}; set stage.text.name to that encoder's folder"
            )

    def store(self) -> Embeddings:
        """The stored embeddings.

        Raises:
            ValueError: they are missing, or have another encoder, length or width.
        """
        if self._store is None:
            assert self.embeddings is not None
            expected = self._expected()
            store = Embeddings.open(
                self.embeddings, fingerprint=expected, max_tokens=self.max_tokens
            )
            if store.width != self.width:
                raise ValueError(
                    f"T5Text: the embeddings have width {store.width}, but the stage has "
                    f"{self.width}; set stage.text.width={store.width}"
                )
            self.fingerprint, self._store = expected, store
        return self._store

    def _expected(self) -> str:
        """The fingerprint that the embeddings must have."""
        if self.fingerprint is not None:
            return self.fingerprint
        try:
            return fingerprint(find_encoder(self.name))
        except NoEncoderError as error:
            assert self.embeddings is not None
            made = Embeddings.open(self.embeddings).files[0].made
            raise ValueError(
                f"T5Text: the embeddings name the encoder {made.fingerprint} ({made.encoder}), "
                f"which cannot be checked: {error}; or set stage.text.fingerprint="
                f"{made.fingerprint} to skip the check"
            ) from error

    def check(self, prompt: str) -> None:
        """Refuse a prompt of more than `max_tokens` tokens."""
        size = len(self.tokenize([prompt])[0])
        if size > self.max_tokens:
            raise ValueError(
                f"T5Text: takes at most {self.max_tokens} tokens, the prompt has {size}; "
                "shorten it, or train with a larger stage.text.max_tokens"
            )

    def prepare(self) -> None:
        """Open the stored embeddings or, without them, load tokenizer and encoder."""
        if self.embeddings is None:
            self.tokenizer()
            self.encoder()
        else:
            self.store()

    def ahead(self) -> Fetch | None:
        """The look-up of stored embeddings; None without them."""
        return None if self.embeddings is None else self.store().get

    def identity(self) -> dict[str, str]:
        """The encoder's fingerprint."""
        return {"fingerprint": self.fingerprint or fingerprint(find_encoder(self.name))}

    def shared_key(self) -> Hashable:
        """The encoder's fingerprint or name, length, dtype and stored embeddings."""
        stored = self.embeddings if isinstance(self.embeddings, str | None) else (*self.embeddings,)
        return ("T5Text", self.fingerprint or self.name, self.max_tokens, self.dtype, stored)

    def to(self, *args: Any, **kwargs: Any) -> "T5Text":
        """Move the loaded encoder too.

        A stage that moves does not call this for its parts, so the encoder, which stages may
        share, is moved by its owner or, at its next use, to the device of the stage.
        """
        super().to(*args, **kwargs)
        if "encoder" in self._loaded:
            self._loaded["encoder"].to(cast(Tensor, self.anchor).device)
        return self

    def forward(self, captions: Sequence[str], known: Known | None = None) -> TextFeatures:
        """The encoder's last hidden states; the empty caption has T5's end token alone.

        Raises:
            ValueError: a caption has no stored embedding.
        """
        if self.embeddings is None and known is None:
            return self._encode(captions)
        found: list[Tensor | None] = [None] * len(captions) if known is None else list(known)
        missing = [i for i, one in enumerate(found) if one is None]
        if self.embeddings is not None:
            for i in missing:
                found[i] = self._look_up(captions[i])
        elif missing:
            encoded, mask = self._encode([captions[i] for i in missing])
            for i, tokens, length in zip(missing, encoded, mask.sum(1).tolist(), strict=True):
                found[i] = tokens[:length]
        device, dtype = cast(Tensor, self.anchor).device, getattr(torch, self.dtype)
        rows = [one.to(device, dtype) for one in found if one is not None]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(one) for one in rows])
        return TextFeatures(tokens, self._mask(lengths))

    def _look_up(self, caption: str) -> Float[Tensor, "l d"]:
        found = self.store().get(caption)
        if found is None:
            raise ValueError(
                f"T5Text: the caption {caption[:200]!r} has no embedding among "
                f"{len(self.store())} in {self.embeddings}; make the missing ones with "
                f"make embeddings SHARDS=… ENCODER={self.name}"
            )
        return torch.from_numpy(found)

    def _mask(self, lengths: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        return mask.to(cast(Tensor, self.anchor).device)

    def tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        """The tokens of each caption with the end token last, not truncated."""
        valid = [one.encode("utf-8", errors="replace").decode() for one in captions]
        return cast(list[list[int]], self.tokenizer()(valid)["input_ids"])

    def cut(self, tokens: list[int]) -> list[int]:
        """At most `max_tokens` tokens: truncated before the end token, as the tokenizer would."""
        if len(tokens) <= self.max_tokens:
            return tokens
        return [*tokens[: self.max_tokens - 1], tokens[-1]]

    def _encode(self, captions: Sequence[str]) -> TextFeatures:
        ids = self.tokenize(captions)
        self.truncated += sum(len(one) > self.max_tokens for one in ids)
        return self.encode([self.cut(one) for one in ids])

    @torch.no_grad()
    def encode(self, ids: Sequence[list[int]]) -> TextFeatures:
        """The last hidden states of token ids, at most `max_tokens` each."""
        encoder = self.encoder()
        device = cast(Tensor, self.anchor).device
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
        mask = self._mask(torch.tensor([len(one) for one in ids]))
        if encoder.device != device:
            encoder.to(device)
        out = encoder(input_ids=tokens.to(device), attention_mask=mask.long()).last_hidden_state
        return TextFeatures((out * mask.unsqueeze(-1)).clone(), mask)
