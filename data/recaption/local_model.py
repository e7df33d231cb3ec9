"""A vision-language model of transformers on this machine, for one clip at a time."""

import asyncio
import importlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from typing_extensions import override

from data.recaption.ledger import Usage
from data.recaption.model import Answer, Model


class LocalModel(Model):
    """An image-text-to-text model from a folder, or from the hub with `download`.

    Supported options: `temperature` (0: greedy decoding) and `max_tokens`.

    Raises:
        ValueError: transformers or the files are missing, or an option is not supported.
    """

    def __init__(
        self,
        *,
        model: str,
        download: bool = False,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        rest = dict(options or {})
        temperature = float(rest.pop("temperature", 0.0))
        self._generate: dict[str, Any] = {"max_new_tokens": int(rest.pop("max_tokens", 600))}
        if temperature > 0:
            self._generate |= {"do_sample": True, "temperature": temperature}
        if rest:
            raise ValueError(
                "captions: a local model supports only the options temperature and max_tokens, got "
                f"{', '.join(rest)}"
            )
        try:
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise ValueError(
                "captions: a local model needs transformers, which is not installed; pip install "
                "'cascade[text]'"
            ) from error
        source = {"local_files_only": not download}
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(model, **source)
            net = transformers.AutoModelForImageTextToText.from_pretrained(
                model, dtype=dtype, **source
            )
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"captions: no image-text-to-text model can be loaded from {model!r}; use the "
                f"folder of one, or allow a download with download=true ({error})"
            ) from error
        self._net = net.to(device).eval()
        self.name = Path(model).name
        self._turn = asyncio.Lock()

    @override
    async def ask(self, text: str, pictures: Sequence[bytes], schema: Mapping[str, Any]) -> Answer:
        """The answer; requests run one after the other. The prompt alone asks for the schema."""
        async with self._turn:
            return await asyncio.to_thread(self._answer, text, pictures)

    @torch.inference_mode()
    def _answer(self, text: str, pictures: Sequence[bytes]) -> Answer:
        shown = [{"type": "image", "image": Image.open(io.BytesIO(one))} for one in pictures]
        content = [*shown, {"type": "text", "text": text}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._net.device)
        asked = inputs["input_ids"].shape[1]
        inputs = {
            name: value.to(self._net.dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        written = self._net.generate(**inputs, **self._generate)[:, asked:]
        answer = self._processor.batch_decode(written, skip_special_tokens=True)[0]
        return Answer(
            text=answer, usage=Usage(answers=1, prompt=asked, completion=written.shape[1])
        )

    async def close(self) -> None:
        """Do nothing: nothing is open."""
