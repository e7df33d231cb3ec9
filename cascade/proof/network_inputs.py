"""All inputs that a stage feeds its network in one call, by name."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cascade.stage import Stage

#: Input by name: z, low, given, mask, logsnr, text, text_mask, and each scalar by its own name.
Inputs = dict[str, Tensor]
#: The inputs that are channels of one tensor, in their order there.
CHANNELS = ("z", "low", "given", "mask")
#: What the stage adds to the network's output, if it adds something.
BASELINE = "baseline"


def by_name(
    stage: Stage,
    x: Float[Tensor, "b c f h w"],
    logsnr: Float[Tensor, "b f"],
    text: Float[Tensor, "b l d"],
    text_mask: Bool[Tensor, "b l"],
    scalars: Float[Tensor, "b k"],
) -> Inputs:
    """The arguments of a call of the network, split into inputs by name."""
    channels = stage.codec.channels
    low = {"low": channels} if stage.kind.takes_low else {}
    sizes = {"z": channels, **low, "given": channels, "mask": stage.codec.cell}
    inputs = dict(zip(sizes, torch.split(x, list(sizes.values()), dim=1), strict=True))
    inputs |= {"logsnr": logsnr, "text": text, "text_mask": text_mask}
    return inputs | {name: scalars[:, i] for i, name in enumerate(stage.kind.scalars)}


def run_network(stage: Stage, inputs: Inputs) -> Float[Tensor, "b c f h w"]:
    """The network's output for inputs by name."""
    x = torch.cat([inputs[name] for name in CHANNELS if name in inputs], dim=1)
    scalars = torch.stack([inputs[name] for name in stage.kind.scalars], dim=1)
    assert stage.net is not None
    out: Tensor = stage.net(x, inputs["logsnr"], inputs["text"], inputs["text_mask"], scalars)
    return out


@contextmanager
def recorded(stage: Stage) -> Iterator[list[Inputs]]:
    """A context in which the network only records its inputs and returns zeros, which is fast.

    A packed call counts as one call per clip, its text without padding. What the stage adds to the
    network's output is recorded as one more input, the baseline.
    """
    calls: list[Inputs] = []

    def forward(x: Tensor, *rest: Tensor) -> Tensor:
        calls.append({name: value.clone() for name, value in by_name(stage, x, *rest).items()})
        return x.new_zeros(len(x), stage.codec.channels, *x.shape[2:])

    def forward_packed(
        xs: Sequence[Tensor], logsnr: Sequence[Tensor], text: Sequence[Tensor], scalars: Tensor
    ) -> list[Tensor]:
        outs = []
        for x, levels, words, row in zip(xs, logsnr, text, scalars, strict=True):
            every = torch.ones(1, len(words), dtype=torch.bool, device=words.device)
            outs.append(forward(x[None], levels[None], words[None], every, row[None])[0])
        return outs

    def added(predict: Callable[..., Any]) -> Callable[..., Any]:
        def predicted(*arguments: Any) -> Any:
            out = predict(*arguments)
            outs = out if isinstance(out, list) else [out]
            for call, one in zip(calls[-len(outs) :], outs, strict=True):
                if one.any():
                    call[BASELINE] = one.clone()
            return out

        return predicted

    with contextlib.ExitStack() as replaced:
        for owner, name, function in (
            (stage.net, "forward", forward),
            (stage.net, "forward_packed", forward_packed),
            (stage, "predict", added(stage.predict)),
            (stage, "predict_parts", added(getattr(stage, "predict_parts", stage.predict))),
        ):
            if hasattr(owner, name):
                setattr(owner, name, function)
                replaced.callback(delattr, owner, name)
        yield calls


@contextmanager
def watched(stage: Stage) -> Iterator[list[Inputs]]:
    """A context in which the network records its inputs and computes its output as usual."""
    calls: list[Inputs] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        calls.append({k: v.clone() for k, v in by_name(stage, *arguments).items()})

    assert stage.net is not None
    hook = stage.net.register_forward_pre_hook(note)
    try:
        yield calls
    finally:
        hook.remove()
