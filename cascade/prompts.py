"""The prompts of a call: each distinct text encoder encodes each of them once."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.stage import Stage
from cascade.text.encoder import TextEncoder, TextFeatures

#: A context in which an encoder is on the device where it runs.
OnDevice = Callable[[TextEncoder], AbstractContextManager[None]]


@dataclass(frozen=True)
class Encoded:
    """Encoded prompts and negative prompts, one entry per stage."""

    texts: list[TextFeatures]
    negatives: list[TextFeatures]

    def rows(self, rows: slice) -> "Encoded":
        """The entries of some of the videos."""
        return Encoded(
            [TextFeatures(t.tokens[rows], t.mask[rows]) for t in self.texts],
            [TextFeatures(t.tokens[rows], t.mask[rows]) for t in self.negatives],
        )


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """One prompt and one negative prompt per video, as text or encoded."""

    texts: list[str] | TextFeatures
    negatives: list[str] | TextFeatures

    @classmethod
    def of(
        cls,
        prompt: str | Sequence[str] | None,
        negative: str | Sequence[str] | None,
        embeds: TextFeatures | None,
        negative_embeds: TextFeatures | None,
    ) -> "Prompts":
        """The prompts of a call.

        Raises:
            ValueError: there is no prompt, or it is given both as text and encoded, or there is
                another number of negative prompts.
        """
        for name, text, encoded in (
            ("prompt", prompt, embeds),
            ("negative_prompt", negative, negative_embeds),
        ):
            if text is not None and encoded is not None:
                raise ValueError(f"{name} and {name}_embeds were both given; give one of them")
            check_text(name, text)
        if prompt is None and embeds is None:
            raise ValueError(
                "no prompt was given; for an unconditional video give the empty prompt ''"
            )
        texts = embeds if embeds is not None else [prompt] if isinstance(prompt, str) else None
        texts = list(prompt or ()) if texts is None else texts
        count = len(texts.tokens) if isinstance(texts, TextFeatures) else len(texts)
        if not count:
            raise ValueError(
                "no prompt was given; for an unconditional video give the empty prompt ''"
            )
        if negative_embeds is not None:
            negatives: list[str] | TextFeatures = negative_embeds
            given = len(negative_embeds.tokens)
        else:
            single = negative is None or isinstance(negative, str)
            negatives = [str(negative or "")] * count if single else list(negative or ())
            given = len(negatives)
        if given != count:
            raise ValueError(
                f"{count} prompts, but {given} negative prompts; give one, or one per prompt"
            )
        return cls(texts=texts, negatives=negatives)

    def __len__(self) -> int:
        """The number of videos."""
        return len(self.texts.tokens if isinstance(self.texts, TextFeatures) else self.texts)

    def repeated(self, each: int) -> "Prompts":
        """Each prompt `each` times, one after another."""

        def repeat(texts: list[str] | TextFeatures) -> list[str] | TextFeatures:
            if isinstance(texts, TextFeatures):
                tokens = texts.tokens.repeat_interleave(each, dim=0)
                return TextFeatures(tokens, texts.mask.repeat_interleave(each, dim=0))
            return [text for text in texts for _ in range(each)]

        return Prompts(texts=repeat(self.texts), negatives=repeat(self.negatives))

    def check(self, stages: Sequence[Stage]) -> None:
        """Check that the encoders can read the prompts in full, and that embeddings fit the stages.

        Raises:
            ValueError: a prompt is too long, or embeddings are of another encoder.
        """
        for text in (self.texts, self.negatives):
            if isinstance(text, TextFeatures):
                _check_embeds(text, stages)
            else:
                for encoder in _distinct(stages):
                    for one in {*text}:
                        encoder.check(one)

    def encode(self, stages: Sequence[Stage], on_device: OnDevice) -> Encoded:
        """The features from each stage's encoder; repeated texts are encoded once."""
        wanted = [t for t in (self.texts, self.negatives) if not isinstance(t, TextFeatures)]
        each = list(dict.fromkeys(one for texts in wanted for one in texts))
        features: dict[int, TextFeatures] = {}
        for encoder in _distinct(stages) if each else []:
            with on_device(encoder):
                features[id(encoder)] = encoder(each)

        def of(texts: list[str] | TextFeatures, stage: Stage) -> TextFeatures:
            if isinstance(texts, TextFeatures):
                return texts
            found = features[id(stage.text)]
            rows = torch.tensor([each.index(one) for one in texts], device=found.tokens.device)
            return _trimmed(found.tokens[rows], found.mask[rows])

        return Encoded(
            [of(self.texts, stage) for stage in stages],
            [of(self.negatives, stage) for stage in stages],
        )


def check_text(name: str, text: Any) -> None:
    """Check that prompts from a user are text: YAML reads prompt=5 as a number.

    Raises:
        ValueError: they are not.
    """
    listed = [text] if text is None or isinstance(text, str) else text
    several = isinstance(listed, Sequence)
    if not several or not all(isinstance(one, str) for one in listed if text is not None):
        raise ValueError(
            f"{name} must be text, got {text!r}; on the command line put it in quotes: "
            f"{name}=\"'…'\""
        )


def share_encoders(stages: Sequence[Stage]) -> None:
    """Let stages with equal text encoders share one, so that it is loaded once."""
    first: dict[Hashable, TextEncoder] = {}
    for stage in stages:
        key = stage.text.shared_key()
        if key is not None:
            stage.text = first.setdefault(key, stage.text)


def _distinct(stages: Sequence[Stage]) -> list[TextEncoder]:
    return list({id(stage.text): stage.text for stage in stages}.values())


def _check_embeds(text: TextFeatures, stages: Sequence[Stage]) -> None:
    shapes = tuple(text.tokens.shape), tuple(text.mask.shape)
    if len(shapes[0]) != 3 or shapes[1] != shapes[0][:2] or text.mask.dtype != torch.bool:
        raise ValueError(
            "prompt_embeds: tokens must be (prompts, tokens, width) and mask (prompts, tokens) of "
            f"dtype bool, got {shapes[0]} and {shapes[1]} of {text.mask.dtype}"
        )
    for stage in stages:
        if stage.text.shared_key() is None:
            raise ValueError(
                f"prompt_embeds: stage {stage.name} has a text encoder of its own, trained with "
                "it, so its prompts must be given as text"
            )
        if stage.text.width != text.tokens.shape[2]:
            raise ValueError(
                f"prompt_embeds: stage {stage.name} reads tokens of width {stage.text.width}, "
                f"got {text.tokens.shape[2]}"
            )
    if len({id(stage.text) for stage in stages}) > 1:
        names = ", ".join(stage.name for stage in stages)
        raise ValueError(
            f"prompt_embeds: the stages {names} have different text encoders; give the prompts as "
            "text"
        )


def _trimmed(tokens: Tensor, mask: Tensor) -> TextFeatures:
    """The features without the padding that no row needs."""
    longest = max(int(mask.sum(dim=1).max()), 1)
    return TextFeatures(tokens[:, :longest], mask[:, :longest])
