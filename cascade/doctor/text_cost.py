"""The size and cost of a frozen text encoder, from its config or from its width."""

from dataclasses import dataclass
from typing import Any

from cascade.text.encoder_files import NoEncoderError, find_encoder, read_config

#: T5 v1.1's encoders by width: (width of a head, heads, width of the MLP, layers).
T5 = {
    512: (64, 6, 1024, 8),
    768: (64, 12, 2048, 12),
    1024: (64, 16, 2816, 24),
    2048: (64, 32, 5120, 24),
    4096: (64, 64, 10240, 24),
}
_VOCABULARY = 32128
_HALF_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """The cost of a frozen encoder per rank; zero if its embeddings are precomputed."""

    parameters: int | None
    precomputed: bool
    note: str

    @property
    def bytes(self) -> int:
        """Bytes of its weights on the device, in half precision."""
        return 0 if self.precomputed else _HALF_BYTES * (self.parameters or 0)

    def flops(self, captions: int, tokens: int) -> int:
        """FLOPs to encode `captions`: two per parameter and token, without attention scores."""
        return 0 if self.precomputed else 2 * (self.parameters or 0) * captions * tokens


def frozen_encoder(text: Any) -> FrozenEncoder:
    """The cost of `text`, a frozen encoder."""
    precomputed = getattr(text, "embeddings", None) is not None
    try:
        config = read_config(find_encoder(text.name))
        sizes = (config["d_kv"], config["num_heads"], config["d_ff"], config["num_layers"])
        vocabulary, note = config["vocab_size"], "from its config.json"
        gated = str(config.get("feed_forward_proj", "")).startswith("gated")
    except (NoEncoderError, AttributeError, KeyError):
        if text.width not in T5:
            return FrozenEncoder(
                parameters=None,
                precomputed=precomputed,
                note="unknown: its files are not on this machine",
            )
        sizes, vocabulary, gated = T5[text.width], _VOCABULARY, True
        note = f"as T5 v1.1's encoder of width {text.width}; its files are not on this machine"
    head, heads, mlp, layers = sizes
    width = text.width
    layer = 4 * width * head * heads + (3 if gated else 2) * width * mlp + 2 * width
    count = vocabulary * width + layers * layer + 32 * heads + width
    return FrozenEncoder(parameters=count, precomputed=precomputed, note=note)
