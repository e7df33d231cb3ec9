"""Laws of the base's network: silent before training, packed equals unpacked."""

import copy

import pytest
import torch
from torch import Tensor

from cascade.doctor.kernels import Kernels
from cascade.nn import attention
from cascade.nn.attention import HeadNorm, Segments, TextMemory, attend, kernel_named
from cascade.nn.dit import DiT
from cascade.nn.embed import fourier, position_features, rotary, rotate
from cascade.nn.patch import patchify, unpatchify

SIZES = {"in_channels": 7, "out_channels": 3, "text_width": 24, "num_scalars": 2}


def dit(*, trained: bool = True, **options: object) -> DiT:
    torch.manual_seed(0)
    net = DiT(**SIZES, **{"width": 64, "depth": 3, "head_width": 32, **options})  # type: ignore[arg-type]  # a test's own keywords
    if trained:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def inputs(b: int = 2, f: int = 4, h: int = 8, w: int = 12, length: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(f * h * w + length)
    x = torch.randn(b, 7, f, h, w, generator=generator)
    logsnr = torch.randn(b, f, generator=generator)
    text = torch.randn(b, length, 24, generator=generator)
    mask = torch.ones(b, length, dtype=torch.bool)
    return x, logsnr, text, mask, torch.randn(b, 2, generator=generator)


def test_untrained_dit_outputs_exactly_zero() -> None:
    out = dit(trained=False)(*inputs())
    assert out.shape == (2, 3, 4, 8, 12)
    assert (out == 0).all()


@pytest.mark.parametrize("shape", [(2, 4, 4), (8, 16, 8), (4, 4, 20)])
def test_any_multiple_of_the_patch_runs(shape: tuple[int, int, int]) -> None:
    assert dit()(*inputs(1, *shape)).shape == (1, 3, *shape)


def test_a_size_off_the_patch_is_refused_with_the_nearest_that_fits() -> None:
    with pytest.raises(ValueError, match=r"DiT: height must be a multiple of 4, got 9; .* is 8"):
        dit()(*inputs(1, 2, 9, 8))


@pytest.mark.parametrize("patch", [(2, 4), (2, 0, 4)])
def test_a_patch_that_is_no_three_sides_is_refused(patch: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="DiT: patch must be three whole numbers of at least 1"):
        dit(patch=patch)


def test_images_run_with_a_patch_of_one_frame() -> None:
    assert dit(patch=(1, 4, 4))(*inputs(1, 1, 8, 8)).shape == (1, 3, 1, 8, 8)


def test_masked_tokens_change_nothing() -> None:
    x, logsnr, text, mask, scalars = inputs(1, 2, 8, 8)
    more = (
        torch.cat([text, torch.randn(1, 7, text.shape[2])], dim=1),
        torch.cat([mask, torch.zeros(1, 7, dtype=torch.bool)], dim=1),
    )
    net = dit()
    torch.testing.assert_close(
        net(x, logsnr, *more, scalars), net(x, logsnr, text, mask, scalars), rtol=1e-5, atol=1e-6
    )


def test_on_a_gpu_a_text_has_a_multiple_of_16_tokens() -> None:
    for length in (1, 15, 16, 40):
        text = torch.empty(2, length, 8, device="meta")
        mask = torch.ones(2, length, dtype=torch.bool, device="meta")
        with Kernels(cuda=True, half=None):
            padded, valid = TextMemory.padded(text, mask)
        assert (padded.shape[1] + 1) % 16 == 0
        assert 0 <= padded.shape[1] - length < 16
        assert valid.shape == padded.shape[:2]
        assert TextMemory.padded(text, mask)[0] is text


@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_of_attention_is_named(masked: bool) -> None:
    assert kernel_named(torch.zeros(1, 8, 2, 64), torch.zeros(1, 5, 2, 64), masked=masked) in (
        "flash",
        "math",
    )


def test_patches_round_trip() -> None:
    x = torch.randn(2, 3, 4, 8, 12)
    assert torch.equal(unpatchify(patchify(x, (2, 4, 4)), (2, 2, 3), (2, 4, 4)), x)


def test_masked_text_is_not_read_and_all_masked_is_finite() -> None:
    net, (x, logsnr, text, mask, scalars) = dit(), inputs()
    mask[:, 3:] = False
    other = text.clone()
    other[:, 3:] = 100
    torch.testing.assert_close(
        net(x, logsnr, text, mask, scalars), net(x, logsnr, other, mask, scalars)
    )
    short = net(x, logsnr, text[:, :3], mask[:, :3], scalars)
    torch.testing.assert_close(net(x, logsnr, text, mask, scalars), short)
    assert net(x, logsnr, text, torch.zeros_like(mask), scalars).isfinite().all()


def test_every_condition_changes_the_output() -> None:
    net, arguments = dit(), inputs()
    out = net(*arguments)
    for index in (0, 1, 2, 4):
        changed = list(arguments)
        changed[index] = changed[index] + 1
        assert (net(*changed) - out).abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_equals_unpacked(dtype: torch.dtype, tolerance: float) -> None:
    net = dit(long_skips=True).to(dtype)
    cases = [inputs(1, 4, 8, 8, 3), inputs(1, 2, 12, 4, 6), inputs(1, 2, 4, 4, 1)]
    cases = [tuple(t if t.dtype == torch.bool else t.to(dtype) for t in case) for case in cases]
    packed = net.forward_packed(
        [c[0][0] for c in cases],
        [c[1][0] for c in cases],
        [c[2][0] for c in cases],
        torch.cat([c[4] for c in cases]),
    )
    for case, out in zip(cases, packed, strict=True):
        torch.testing.assert_close(out, net(*case)[0], atol=tolerance, rtol=tolerance)


def test_checkpointing_changes_no_gradient() -> None:
    plain = dit(long_skips=True)
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    for net in (plain, saving):
        net(*inputs()).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_training_after_inference_mode_does_not_trip_over_a_cache() -> None:
    net = dit()
    with torch.inference_mode():
        net(*inputs(1, 4, 16, 4))
    net(*inputs(1, 4, 16, 4)).sum().backward()


def test_rotary_products_depend_on_relative_place_alone() -> None:
    rotations = rotary(4, 4, 4, 32, 100.0, torch.device("cpu"))
    q, k = torch.randn(32), torch.randn(32)
    q, k = (rotate(t.expand(1, 64, 1, 32), rotations)[0, :, 0] for t in (q, k))
    product = (q @ k.T).view(4, 4, 4, 4, 4, 4)
    torch.testing.assert_close(product[0, 1, 0, 1, 2, 2], product[2, 2, 1, 3, 3, 3])


def test_videos_of_any_length_have_the_trained_range_of_positions_in_time() -> None:
    cpu = torch.device("cpu")
    counted = rotary(4, 2, 3, 32, 100.0, cpu)
    short, own, longer = (rotary(n, 2, 3, 32, 100.0, cpu, 4).view(n, 2, 3, -1) for n in (2, 4, 8))
    torch.testing.assert_close(own.flatten(0, 2), counted.flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(longer[0::2] * longer[1::2], own**2)  # each pair around one
    torch.testing.assert_close(own[0::2] * own[1::2], short**2)


def test_the_trained_length_changes_videos_of_all_other_lengths() -> None:
    net = dit()
    short, own, longer = (net(*inputs(1, frames)) for frames in (4, 8, 16))
    net.trained_frames = 8
    torch.testing.assert_close(net(*inputs(1, 8)), own, rtol=0, atol=0)
    for frames, counted in ((4, short), (16, longer)):
        assert (net(*inputs(1, frames)) - counted).abs().max() > 1e-4


def test_absolute_positions_are_normalised_to_the_grid() -> None:
    cpu = torch.device("cpu")
    one, two = position_features(1, 2, 2, cpu), position_features(3, 6, 6, cpu)
    torch.testing.assert_close(one[0, 0], two[1, 7])


def test_fourier_features_are_sines_and_cosines() -> None:
    features = fourier(torch.tensor([0.3, -0.7]))
    first, second = features.chunk(2, dim=-1)
    torch.testing.assert_close(first.square() + second.square(), torch.ones_like(first))


def test_head_norm_is_rms_norm_with_a_gain() -> None:
    norm, x = HeadNorm(2), torch.randn(3, 5, 2, 16)
    torch.nn.init.constant_(norm.gain, 2.0)
    torch.testing.assert_close(norm(x), 2 * torch.nn.functional.rms_norm(x, (16,), eps=1e-6))


def test_segments_do_not_see_each_other() -> None:
    q, k, v = torch.randn(3, 1, 7, 2, 16).unbind()
    segments = Segments((3, 4), (5, 2))
    out = attend(q, k, v, segments=segments)
    v[:, 5:] += 1
    assert torch.equal(attend(q, k, v, segments=segments)[:, :3], out[:, :3])


def test_xformers_is_optional() -> None:
    assert attention._fmha() is None or torch.cuda.is_available()


def test_a_width_off_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match="got width 64 and head_width 48"):
        dit(head_width=48)


def test_mixed_precision_trains() -> None:
    net = dit(long_skips=True, checkpointing=True)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(*inputs())
    mixed.float().square().mean().backward()
    torch.testing.assert_close(mixed.float(), net(*inputs()), atol=0.1, rtol=0.1)
