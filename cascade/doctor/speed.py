"""The seconds that a GPU takes for the work of a step: a model with few constants, no measurement.

A product takes as long as its FLOPs at the rate that such products reach, or as its bytes, if that
is longer; an elementwise kernel takes as long as its bytes. The GPU waits where the CPU needs
longer to launch the kernels than the GPU to run them. Peaks and bandwidths are from NVIDIA's data
sheets; each constant has its source or is called an assumption. `tests/gpu/all.py` measures them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cascade.doctor.work import Part, Product
from cascade.flops import named

#: The share of the data sheet's bandwidth that kernels reach. A copy of 8.6 GB reached 0.90 (4.3 of
#: an H200's 4.8 TB/s, PyTorch 2.11); kernels with several inputs are assumed to reach less.
BANDWIDTH = 0.85
#: The share of the peak that large matrix products reach. Ten products of 8192³ in a row reached
#: 0.80 of an H200's peak (PyTorch 2.11); Hopper and Blackwell are assumed to lower their clock, by
#: a fifth, under the full load of a training (650 of 989 TFLOP/s). Other GPUs nearly keep it.
LINEAR = {"B200": 0.66, "GH200": 0.66, "H200": 0.66, "H100": 0.66}
OTHERS = 0.80
#: The share of the peak of convolutions of a few hundred channels: an assumption.
CONVOLUTION = 0.40
#: Attention reaches the share S · d / (d + 128) with heads of d channels: the softmax of a score
#: takes as long as its products with 128 channels. S is fitted to cuDNN's kernels on an H100
#: (FlashAttention-3, Shah et al. 2024, figures 5 and 6): about 600 and 400 of 989 TFLOP/s forward
#: with heads of 128 and 64, 490 and 320 backward.
ATTENTION = {"attention": 1.21, "attention_backward": 0.98}
SOFTMAX = 128
#: Seconds in which the CPU launches a kernel, with autograd and autocast: an assumption.
LAUNCH = 6e-6


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a GPU reaches: FLOP/s of large matrix products, its `peak`, and bytes/s."""

    peak: float
    linear: float
    bandwidth: float

    @staticmethod
    def of(name: str, *, peak: float, bandwidth: float) -> "Rates":
        """The rates of a GPU, from its name and its data sheet."""
        share = named(LINEAR, name) or OTHERS
        return Rates(peak=peak, linear=share * peak, bandwidth=BANDWIDTH * bandwidth)

    def seconds(self, product: Product) -> float:
        """The time of one product."""
        if product.kind == "linear":
            rate = self.linear
        elif product.kind == "convolution":
            rate = CONVOLUTION * self.peak
        else:
            share = ATTENTION[product.kind] * product.head / (product.head + SOFTMAX)
            rate = share * self.peak
        return max(product.flops / rate, product.bytes / self.bandwidth)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds of the GPU by kind of work, and the kernels that the CPU launches."""

    products: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    kernels: float = 0.0

    def plus(self, other: "Spent", weight: float = 1.0) -> "Spent":
        """The sum with `other`, which is weighted."""
        return Spent(
            products=self.products + weight * other.products,
            attention=self.attention + weight * other.attention,
            elementwise=self.elementwise + weight * other.elementwise,
            kernels=self.kernels + weight * other.kernels,
        )


def spent(parts: Iterable[Part], rates: Rates, *, compiled: bool) -> Spent:
    """The time of some phases of a step."""
    total = Spent()
    for part in parts:
        moved = part.fused if compiled else part.eager
        attention = _seconds(part.products, rates, attention=True)
        total = total.plus(
            Spent(
                products=_seconds(part.products, rates, attention=False),
                attention=attention,
                elementwise=moved.bytes / rates.bandwidth,
                kernels=moved.kernels + part.products.total(),
            )
        )
    return total


def _seconds(products: Mapping[Product, int], rates: Rates, *, attention: bool) -> float:
    return sum(
        count * rates.seconds(product)
        for product, count in products.items()
        if product.kind.startswith("attention") == attention
    )
