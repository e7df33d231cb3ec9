"""Random numbers keyed by (seed, position, purpose), independent of the order of draws.

Position is the global number of a sample in its run. So a run draws the same numbers on one process
as on many, and a resumed run the same as an uninterrupted one, even with another number of
processes. On the CPU all draws come from Philox, a counter-based generator (Salmon et al. 2011),
with a key of 128 bits.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cascade.transfer import sent

T = TypeVar("T")

#: One step of Philox4x64 gives four numbers of 64 bits, from which come eight float32 uniforms.
_BLOCK = 8
#: Where the 624 words of the Mersenne Twister lie in the state of torch's CPU generator, in bytes.
_WORDS = slice(24, 24 + 624 * 8)


def key(seed: int, position: int, purpose: str) -> int:
    """A stable 63-bit number for (seed, position, purpose)."""
    return int.from_bytes(_digest(seed, position, purpose, 8), "big") >> 1


def rng(seed: int, position: int, purpose: str) -> np.random.Generator:
    """A numpy generator keyed by (seed, position, purpose), for a few draws of any distribution."""
    bits = np.random.Philox(key=int.from_bytes(_digest(seed, position, purpose, 16), "little"))
    return np.random.Generator(bits)


def generator(
    seed: int, position: int, purpose: str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator keyed by (seed, position, purpose).

    On a GPU it is Philox, with the 63 bits of `key`. On the CPU it is a Mersenne Twister, which
    torch seeds with only 32 bits; therefore all of its state is drawn from `rng`.
    """
    torch_rng = torch.Generator(device).manual_seed(key(seed, position, purpose))
    if torch_rng.device.type != "cpu":
        return torch_rng
    state = torch_rng.get_state()
    words = state.numpy()[_WORDS].view(np.uint64)
    assert words[0] == torch_rng.initial_seed() % 2**32, (
        "unexpected layout of torch's generator state"
    )
    words[:] = rng(seed, position, purpose).integers(2**32, size=len(words), dtype=np.uint64)
    return torch_rng.set_state(state)


def uniform(seed: int, position: int, purpose: str) -> float:
    """A number in (0, 1), both ends excluded."""
    return ((key(seed, position, purpose) >> 11) + 0.5) / 2.0**52


def choice(weights: Mapping[T, float], seed: int, position: int, purpose: str) -> T:
    """One key of `weights`, drawn with a probability proportional to its weight.

    Raises:
        ValueError: `weights` is empty.
    """
    if not weights:
        raise ValueError(f"keyed: nothing to choose from ({purpose})")
    left = uniform(seed, position, purpose) * sum(weights.values())
    for value, weight in weights.items():
        left -= weight
        if left <= 0:
            return value
    return value


def uniforms(
    seed: int,
    positions: Sequence[int],
    purpose: str,
    device: torch.device | str = "cpu",
) -> Float[Tensor, " b"]:
    """One number in (0, 1) per position, float32."""
    drawn = [uniform(seed, p, purpose) for p in positions]
    return sent(torch.tensor(drawn, dtype=torch.float64).float(), device)


def normals(
    seed: int,
    positions: Sequence[int],
    purpose: str,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b ..."]:
    """Standard normal noise of `shape` for each position, float32; for training.

    On the CPU it comes from Philox with 128 bits of key, on a GPU from torch's generator, which is
    Philox with 63 bits: the numbers differ. `video_noise` is the same on every device.
    """
    device = torch.device(device)
    if device.type == "cpu":
        digests = [_digest(seed, p, purpose, 16) for p in positions]
        return _normals(digests, range(1), math.prod(shape)).view(len(positions), *shape)
    if device.type == "meta":
        return torch.empty(len(positions), *shape, device=device)
    noise = torch.empty(len(positions), *shape, device=device)
    draws = torch.Generator(device)
    for row, position in zip(noise, positions, strict=True):
        row.normal_(generator=draws.manual_seed(key(seed, position, purpose)))
    return noise


def video_noise(
    seed: int,
    positions: Sequence[int],
    purpose: str,
    *,
    frames: range,
    frame_shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
) -> Float[Tensor, "b c f h w"]:
    """Standard normal noise of videos, keyed by (seed, position, purpose, frame); for sampling.

    It is always drawn on the CPU, so that one seed gives one video on every device. A window of
    frames has the same noise as these frames of the whole video; for a tile, slice whole frames.

    Args:
        seed: part of the key, common to all videos.
        positions: part of the key, one per video, such as the video's own seed.
        purpose: what the noise is for.
        frames: consecutive frame numbers in the whole video.
        frame_shape: channels, height and width of a whole frame; the noise depends on them.
        device: the device of the result.

    Raises:
        ValueError: `frames` starts below 0 or is not consecutive.
    """
    if frames.step != 1 or frames.start < 0:
        raise ValueError(
            f"video_noise ({purpose}): frames must be consecutive and at least 0, got {frames}; "
            "slice the noise of a wider window"
        )
    channels, height, width = frame_shape
    if torch.device(device).type == "meta":
        return torch.empty(len(positions), channels, len(frames), height, width, device=device)
    digests = [_digest(seed, p, purpose, 16) for p in positions]
    noise = _normals(digests, frames, math.prod(frame_shape))
    videos = noise.reshape(len(positions), len(frames), channels, height, width).transpose(1, 2)
    return videos.contiguous().to(device)


def _normals(keys: Sequence[bytes], frames: range, size: int) -> Float[Tensor, "b f n"]:
    """`size` standard normals for each key and frame, by the Box-Muller transform (1958).

    A frame takes a fixed number of Philox steps, so its position in the stream is known.
    """
    pairs = -(-size // _BLOCK) * (_BLOCK // 2)
    uniform = np.empty((len(keys), len(frames), 2, pairs), np.float32)
    bits = np.random.Philox(key=0)
    draws = np.random.Generator(bits)
    for rows, digest in zip(uniform, keys, strict=True):
        bits.state = _state(digest, frames.start * (2 * pairs // _BLOCK))
        draws.random(out=rows, dtype=np.float32)
    noise = torch.from_numpy(uniform)
    radius = noise[:, :, 0].neg_().add_(1).log_().mul_(-2).sqrt_()  # of 1 − u, which is never 0
    angle = noise[:, :, 1].mul_(2 * math.pi)
    sine = angle.sin()
    angle.cos_().mul_(radius)
    radius.mul_(sine)
    return noise.flatten(2)[..., :size].contiguous()


def _state(digest: bytes, step: int) -> Any:  # numpy does not export the type
    """The state of Philox with a key of 16 bytes, after `step` steps."""
    return {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array([step, 0, 0, 0], np.uint64),
            "key": np.frombuffer(digest, "<u8").astype(np.uint64),
        },
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }


def _digest(seed: int, position: int, purpose: str, size: int) -> bytes:
    text = f"{seed}/{position}/{purpose}".encode()
    return hashlib.blake2b(text, digest_size=size).digest()
