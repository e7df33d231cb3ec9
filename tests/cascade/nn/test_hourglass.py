"""Laws of the super-resolution network: local as it states, crops equal the whole, linear cost."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cascade.nn.hourglass import Hourglass, shuffle, unshuffle


def hourglass(*, trained: bool = True, **options: object) -> Hourglass:
    torch.manual_seed(0)
    sizes = {"in_channels": 10, "out_channels": 3, "text_width": 12, "num_scalars": 2}
    own = {"widths": (16, 32), "depths": (1, 2), "head_width": 16, **options}
    net = Hourglass(**sizes, **own)  # type: ignore[arg-type]  # a test's own keywords
    if trained:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def inputs(f: int, h: int, w: int, b: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(f + h * w)
    return (
        torch.randn(b, 10, f, h, w, generator=generator),
        torch.randn(b, f, generator=generator),
        torch.randn(b, 4, 12, generator=generator),
        torch.tensor([[True, True, True, False]]).expand(b, -1),
        torch.randn(b, 2, generator=generator),
    )


def test_untrained_hourglass_outputs_exactly_zero() -> None:
    out = hourglass(trained=False)(*inputs(3, 8, 12, 2))
    assert out.shape == (2, 3, 3, 8, 12)
    assert (out == 0).all()


def test_an_image_is_a_video_of_one_frame() -> None:
    assert hourglass()(*inputs(1, 16, 8)).shape == (1, 3, 1, 16, 8)


def test_the_demo_sizes_see_less_than_a_crop_of_32() -> None:
    assert hourglass().receptive_field == (4, 15)


CONFIGS = [
    {},
    {"depths": (1, 1)},
    {"widths": (16,), "depths": (3,), "patch": 1},
    {"widths": (16, 16, 32), "depths": (1, 2, 1), "patch": 1, "text_levels": 2},
]


@pytest.mark.parametrize("options", CONFIGS)
def test_the_receptive_field_is_exact_in_space(options: dict[str, object]) -> None:
    net = hourglass(**options).double()
    _, pixels = net.receptive_field
    side = net.multiple[1]
    size = side * (2 * pixels // side + 3)
    arguments = [t.double() if t.is_floating_point() else t for t in inputs(1, side, size)]
    arguments[0].requires_grad_()
    out, reached = net(*arguments), 0
    start = size // 2 // side * side
    for column in range(start, start + side):
        (grad,) = torch.autograd.grad(out[..., column].sum(), arguments[0], retain_graph=True)
        columns = grad.abs().amax((0, 1, 2, 3)).nonzero()
        reached = max(reached, int((columns - column).abs().max()))
    assert reached == pixels


def test_the_receptive_field_is_exact_in_time() -> None:
    net = hourglass().double()
    frames, _ = net.receptive_field
    arguments = [t.double() if t.is_floating_point() else t for t in inputs(4 * frames, 4, 4)]
    arguments[0].requires_grad_()
    (grad,) = torch.autograd.grad(net(*arguments)[:, :, 2 * frames].sum(), arguments[0])
    seen = grad.abs().amax((0, 1, 3, 4)).nonzero().flatten()
    assert (seen.min(), seen.max()) == (frames, 3 * frames)


def test_crops_in_space_and_time_equal_the_whole_beyond_the_receptive_field() -> None:
    net = hourglass()
    frames, pixels = net.receptive_field
    x, logsnr, text, mask, scalars = inputs(3 * frames, 72, 64)
    whole = net(x, logsnr, text, mask, scalars)
    crop = net(x[:, :, 2:, 8:56, 12:], logsnr[:, 2:], text, mask, scalars)
    inner = (slice(None), slice(None), slice(frames, None))
    torch.testing.assert_close(
        crop[inner][..., pixels : 48 - pixels, pixels:],
        whole[:, :, 2:, 8:56, 12:][inner][..., pixels : 48 - pixels, pixels:],
        atol=1e-5,
        rtol=1e-5,
    )


def test_cost_is_linear_in_pixels_and_frames() -> None:
    net = hourglass()

    def flops(*shape: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(*inputs(*shape))
        return int(counter.get_total_flops())

    base = flops(2, 16, 16)
    assert flops(2, 32, 32) - base == pytest.approx(3 * (flops(2, 32, 16) - base), rel=0.01)
    assert flops(8, 32, 32) == pytest.approx(16 * base, rel=0.05)


def test_every_condition_changes_the_output() -> None:
    net, arguments = hourglass(), inputs(2, 8, 8)
    out = net(*arguments)
    for index in (0, 1, 2, 4):
        changed = list(arguments)
        changed[index] = changed[index] + 1
        assert (net(*changed) - out).abs().max() > 1e-3


def test_checkpointing_of_the_hourglass_changes_no_gradient() -> None:
    grads = []
    for saving in (False, True):
        net = hourglass(checkpointing=saving)
        net(*inputs(2, 8, 8)).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*grads)


def test_shuffle_undoes_unshuffle() -> None:
    x = torch.randn(1, 2, 4, 8, 3)
    assert torch.equal(shuffle(unshuffle(x, 2), 2), x)


def test_a_size_off_the_coarsest_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="Hourglass: width must be a multiple of 4, got 10"):
        hourglass()(*inputs(1, 8, 10))


def test_depths_that_do_not_match_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got widths \[16, 32\] and depths \[1\]"):
        hourglass(depths=(1,))


def test_a_patch_that_is_no_side_is_refused() -> None:
    with pytest.raises(ValueError, match="Hourglass: patch must be a whole number of at least 1"):
        hourglass(patch=0)
