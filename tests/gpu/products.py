"""Rows of single operations: ceilings, attention, matrix products and convolutions."""

import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.gpu.rows import Figures, NotHereError, Row
from tests.gpu.timing import DEVICE, HALF, first, random, seconds

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
#: (clips, heads, tokens, width of a head), pairs of equal cost with heads of 64 and 128.
SELF = (
    *((128, 8, 512, 64), (128, 4, 512, 128), (8, 32, 2048, 64), (8, 16, 2048, 128)),
    *((2, 32, 8192, 64), (2, 16, 8192, 128)),
)
#: Rows, inner size and columns of products.
PRODUCTS = (
    *((65536, 512, 1536), (65536, 512, 2048)),
    *((16384, 2048, 2048), (16384, 2048, 6144), (16384, 2048, 8192)),
)
IMAGES = (512, 32, 32)


def ceilings(small: bool) -> list[Row]:
    """What the machine is, and the fastest that it copies and multiplies."""
    return [
        Row("versions", versions),
        Row("copy", partial(copy, 2**24 if small else 2**32)),
        Row("product", partial(product, *([512] * 3 if small else [8192] * 3))),
    ]


def versions() -> Figures:
    """The versions of everything that decides speed."""
    found: Figures = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {"lightning": pl.__version__, "threads": torch.get_num_threads()}
    if DEVICE == "cuda":
        order = [SDPBackend(one).name.lower() for one in torch._C._get_sdp_priority_order()]
        memory = torch.cuda.get_device_properties(0).total_memory
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "memory_gib": memory / 2**30,
            "attention_order": order,
        }
    return found


def copy(size: int) -> Figures:
    """The speed of a copy on the device, counting bytes read and written."""
    one = torch.empty(size, dtype=torch.uint8, device=DEVICE).random_()
    other = torch.empty_like(one)
    return {"gb_per_s": 2 * size / seconds(lambda: other.copy_(one)) / 1e9}


def product(rows: int, inner: int, columns: int) -> Figures:
    """The speed of a matrix product of random values."""
    a, b = random(rows, inner), random(inner, columns)
    spent = seconds(lambda: torch.mm(a, b))
    return {"ms": 1e3 * spent, "tflop_per_s": 2 * rows * inner * columns / spent / 1e12}


def attention(small: bool) -> list[Row]:
    """Self-attention and attention to text by every kernel."""
    shapes: Sequence[tuple[int, int, int, int]] = [(2, 2, 64, 64)] if small else SELF
    rows = [
        Row(f"{shape} {name}", partial(attend, shape, shape[2], name, masked=False))
        for shape in shapes
        for name in KERNELS
    ]
    one = (2, 2, 64, 64) if small else (8, 16, 2048, 128)
    for keys in (16, 257):
        for name, masked in (("cudnn", False), ("efficient", False), ("efficient", True)):
            label = f"{one} to {keys} {'masked ' if masked else ''}{name}"
            rows.append(Row(label, partial(attend, one, keys, name, masked=masked)))
    rows += [Row(f"a new length of text, masked {n}", partial(lengths, one, n)) for n in KERNELS]
    return rows


def attend(shape: tuple[int, int, int, int], keys: int, name: str, *, masked: bool) -> Figures:
    """Forward and backward speed of one kernel, and the seconds of its first call."""
    batch, heads, queries, width = shape
    q = random(batch, heads, queries, width, grad=True)
    k, v = (random(batch, heads, keys, width, grad=True) for _ in range(2))
    mask = mask_of(batch, keys) if masked else None
    grad = random(batch, heads, queries, width)

    def forward() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def both() -> None:
        torch.autograd.grad(forward(), (q, k, v), grad)

    with chosen(name):
        began = first(both)
        with torch.no_grad():
            fore = seconds(forward)
        back = seconds(both) - fore
    flops = 4 * batch * heads * queries * keys * width
    return {
        "first_s": began,
        "forward_ms": 1e3 * fore,
        "forward_tflop_per_s": flops / fore / 1e12,
        "backward_ms": 1e3 * back,
        "backward_tflop_per_s": 2.5 * flops / back / 1e12,
    }


def lengths(shape: tuple[int, int, int, int], name: str) -> Figures:
    """The seconds of the first call for text of length 12, 13 and 12 again, masked."""
    batch, heads, queries, width = shape
    found = {}
    with chosen(name):
        for label, keys in (("12", 12), ("13", 13), ("12 again", 12)):
            q = random(batch, heads, queries, width, grad=True)
            k, v = (random(batch, heads, keys, width, grad=True) for _ in range(2))
            mask = mask_of(batch, keys)
            call = partial(F.scaled_dot_product_attention, q, k, v, attn_mask=mask)
            found[f"length {label}: s"] = first(lambda c=call: c().sum().backward())
    return found


def mask_of(batch: int, keys: int) -> Tensor:
    """A mask of text: the first half of the keys for every second clip, all for the others."""
    mask = torch.ones(batch, 1, 1, keys, dtype=torch.bool, device=DEVICE)
    mask[::2, ..., (keys + 1) // 2 :] = False
    return mask


def chosen(name: str) -> Any:
    """A context in which attention uses one kernel.

    Raises:
        NotHereError: a CPU has only torch's own flash kernel.
    """
    if DEVICE == "cpu" and name != "flash":
        raise NotHereError(f"a CPU has no {name} kernel")
    return sdpa_kernel(KERNELS[name])


def products(small: bool) -> list[Row]:
    """Matrix products and convolutions of the networks' sizes."""
    shapes = [(256, 64, 128)] if small else PRODUCTS
    rows = [Row("×".join(map(str, s)), partial(product, *s)) for s in shapes]
    for channels in (16,) if small else (128, 256, 512):
        for kernel in ((3, 3), (3, 1)):
            for layout in ("NHWC", "NCHW"):
                name = f"convolution {kernel}, {channels} channels, {layout}"
                rows.append(Row(name, partial(convolution, small, channels, kernel, layout)))
        name = f"(3, 1) as one product, {channels} channels"
        rows.append(Row(name, partial(taps, small, channels)))
    return rows


def convolution(small: bool, channels: int, kernel: tuple[int, int], layout: str) -> Figures:
    """Forward and backward speed of a convolution."""
    count, height, width = (8, 8, 8) if small else IMAGES
    x, weight = random(count, channels, height, width), random(channels, channels, *kernel)
    if layout == "NHWC":
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    padding = (kernel[0] // 2, kernel[1] // 2)
    return passes(
        lambda: F.conv2d(x, weight, padding=padding),
        (x, weight),
        2 * count * height * width * channels**2 * kernel[0] * kernel[1],
    )


def taps(small: bool, channels: int) -> Figures:
    """The same values as a (3, 1) convolution, by one product of three shifted copies."""
    count, height, width = (8, 8, 8) if small else IMAGES
    x = random(count, height, width, channels, grad=True)
    weight = random(3 * channels, channels, grad=True)

    def forward() -> Tensor:
        padded = F.pad(x, (0, 0, 0, 0, 1, 1))
        return torch.cat([padded[:, i : i + height] for i in range(3)], dim=-1) @ weight

    return passes(forward, (x, weight), 2 * count * height * width * channels**2 * 3)


def passes(forward: Callable[[], Tensor], leaves: Sequence[Tensor], flops: int) -> Figures:
    """The speed of a forward pass and of its backward pass, of twice the FLOPs."""
    grad = torch.randn_like(forward(), dtype=HALF)
    with torch.no_grad():
        fore = seconds(forward)
    back = seconds(lambda: torch.autograd.grad(forward(), leaves, grad)) - fore
    return {
        "ms": 1e3 * fore,
        "tflop_per_s": flops / fore / 1e12,
        "backward_ms": 1e3 * back,
        "backward_tflop_per_s": 2 * flops / back / 1e12,
    }
