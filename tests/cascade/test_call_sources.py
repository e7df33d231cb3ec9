"""The ways to prompt from Python: as from files, or refused before the first step."""

import numpy as np
import pytest
import torch
from PIL import Image

from cascade import conditioning
from cascade.call import CallInterruptedError
from cascade.grid import Grid
from cascade.pipeline import Cascade
from cascade.video import as_media, read_frames, read_image, to_uint8, write_mp4, write_png

CHAIN = {"name": "demo", "stages": ["base", "tsr1", "ssr1"], "sampling": {}}
GRID = Grid(frames=8, height=16, width=16, fps=8)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory, bundle_of):
    folder = tmp_path_factory.mktemp("runs")
    for stage in CHAIN["stages"]:
        bundle_of(f"demo/{stage}", folder / "demo" / stage / "default" / "bundle")
    return Cascade.from_runs(folder, CHAIN)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A picture, a video and a mask, of the final size."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    write_png(folder / "a.png", torch.rand(3, 32, 32) * 2 - 1)
    write_png(folder / "b.png", torch.rand(3, 32, 32) * 2 - 1)
    mask = torch.ones(3, 32, 32)
    mask[..., 16:] = -1
    write_png(folder / "mask.png", mask)
    write_mp4(folder / "v.mp4", torch.rand(3, 12, 32, 32) * 2 - 1, 8)
    return folder


def made(cascade, **options):
    generator = torch.Generator().manual_seed(0)
    return cascade("a", generator=generator, num_inference_steps=1, **options).videos


def of_array(value):
    return value / np.float32(255)


FORMS = {
    "bytes": lambda x: x.numpy(),
    "floats": lambda x: of_array(x.numpy()),
    "tensor": lambda x: (x.float() / 127.5 - 1).movedim(-1, 0),
    "byte tensor": lambda x: x,
    "PIL": lambda x: (
        Image.fromarray(x.numpy()) if x.ndim == 3 else [Image.fromarray(one) for one in x.numpy()]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_source_in_memory_gives_what_its_file_gives(files, form):
    convert = FORMS[form]
    image, video = read_image(files / "a.png"), read_frames(files / "v.mp4")[0]
    mask = read_image(files / "mask.png")
    read = {"image": files / "a.png", "video": files / "v.mp4", "mask": files / "mask.png"}
    held = {"image": convert(image), "video": convert(video), "mask": convert(mask)}
    for names, options in (
        (["image"], {}),
        (["image"], {"fit": "pad"}),
        (["video"], {}),
        (["video"], {"way": "extend_backward"}),
        (["video"], {"indices": [0, 5]}),
        (["video", "mask"], {}),
    ):
        for grid in (GRID, Grid(frames=8, height=32, width=32, fps=8)):
            file, memory = (
                conditioning.prompt(grid, **options, **{n: source[n] for n in names}).given
                for source in (read, held)
            )
            assert torch.equal(file.mask, memory.mask)
            # the pixels of a resized file are rounded to bytes, those of floats are not
            torch.testing.assert_close(file.frames, memory.frames, atol=1.01 / 127.5, rtol=0)


def test_a_video_that_the_pipeline_made_is_given_back_exactly(cascade):
    one = made(cascade)[0]
    longer = made(cascade, video=one, extend="forward")[0]
    assert torch.equal(longer[:, :3], one[:, -3:])  # the last at a time of the base
    before = made(cascade, video=one, extend="backward")[0]
    assert torch.equal(before[:, 4:], one[:, :4])
    filled = made(cascade, video=to_uint8(one.movedim(0, -1)), indices=[0, 4])[0]
    assert (filled[:, [0, 4]] - one[:, [0, 4]]).abs().max() <= 1 / 255
    between = made(cascade, connect=(one, before))[0]
    assert torch.equal(between[:, [0, 1, 6, 7]], torch.cat([one[:, -2:], before[:, :2]], dim=1))


def test_pictures_open_and_close_the_video(cascade, files):
    first, last = (torch.from_numpy(np.array(Image.open(files / n))) for n in ("a.png", "b.png"))
    video = made(cascade, image=str(files / "a.png"), last_image=Image.open(files / "b.png"))
    assert video.shape[2] == 7  # it ends at the last time of the base
    for frame, picture in ((0, first), (-1, last)):
        assert (to_uint8(video[0, :, frame]).movedim(0, -1).int() - picture.int()).abs().max() <= 1


def test_a_region_is_kept_and_a_restyled_video_is_its_source_at_strength_0(cascade, files):
    source = as_media(read_frames(files / "v.mp4")[0][:8], "video").pixels
    levels = source.movedim(-1, 0) / 127.5 - 1
    mask = np.zeros((32, 32), bool)
    mask[:, :16] = True
    kept = made(cascade, video=levels, mask=mask)[0]
    torch.testing.assert_close(kept[..., :16], levels[..., :16])
    assert (kept[..., 16:] - levels[..., 16:]).abs().mean() > 0.05
    given = {"start": levels[None], "strength": 0.3}
    assert torch.equal(made(cascade, video=levels, strength=0.3), made(cascade, **given))


def test_a_call_of_a_later_stage_begins_with_the_video(cascade, files):
    frames = read_frames(files / "v.mp4")[0]
    options = {"stages": ["ssr1"]}
    low = (frames.movedim(-1, 0) / 127.5 - 1)[None]
    wanted = made(cascade, low=low, **options)
    for video in (str(files / "v.mp4"), frames, low[0]):
        assert torch.equal(made(cascade, video=video, **options), wanted)
    assert wanted.shape == (1, 3, 12, 64, 64)


PIXELS = np.zeros((8, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": PIXELS[0], "video": PIXELS}, r"takes exactly image=… and video=…"),
        ({"extend": "forward"}, r"extend='forward' needs video=….* got no source"),
        ({"extend": "backward", "image": PIXELS[0]}, r"extend='backward' needs .* got image=…"),
        ({"extend": "sideways", "video": PIXELS}, r"'forward' or 'backward', got 'sideways'"),
        ({"extend": "forward", "video": PIXELS, "mask": PIXELS[0]}, r"takes video=…, not mask=…"),
        ({"video": PIXELS, "mask": PIXELS[0, :16]}, r"mask is 16×32 and the video 32×32"),
        ({"video": PIXELS[:0]}, r"video: must have at least 1 frame of 1×1, got 0 of 32×32"),
        ({"video": []}, r"video: must have at least 1 frame, got 0"),
        ({"video": PIXELS[:3], "strength": 0.5}, r"gives 3 of the 8 frames required"),
        ({"video": PIXELS.astype(np.float32) + 2}, r"in \[0, 1\], got 2 to 2"),
        ({"image": torch.full((3, 4, 4), torch.nan)}, r"image: float pixels must be finite"),
        ({"image": PIXELS.astype(np.int64)}, r"uint8 or float in \[0, 1\], got int64"),
        ({"image": torch.zeros(2, 1, 3, 4, 4)}, r"image: must be a path.*\(2, 1, 3, 4, 4\)"),
        ({"image": 5}, r"image: must be a path, a PIL image .* got int"),
        ({"image": "none.png"}, r"none.png: no such file"),
        ({"connect": [PIXELS]}, r"connect: must be two videos"),
        ({"strength": 0.5}, r"takes exactly strength=…"),
        ({"image": PIXELS[0], "num_frames": 0}, r"num_frames=0: must be a positive multiple"),
        ({"num_videos_per_prompt": 0}, r"num_videos_per_prompt must be .* at least 1, got 0"),
        ({"image": PIXELS[0], "stages": ["tsr1", "ssr1"]}, r"tsr1 .* needs video=…, .* got image"),
        ({"stages": ["ssr1"]}, r"ssr1 is the first stage, so the request needs video=…"),
        (
            {"image": PIXELS[0], "given": conditioning.text((1, 3, 8, 32, 32))},
            r"given is given besides image",
        ),
    ],
)
def test_what_contradicts_or_cannot_be_read_is_refused_before_a_step(cascade, options, message):
    def never(*_):
        raise AssertionError("a step was computed")

    with pytest.raises(ValueError, match=message):
        made(cascade, callback_on_step_end=never, **options)


def test_a_pair_of_pictures_of_two_sizes_is_no_video(cascade):
    images = [Image.new("RGB", (16, 16)), Image.new("RGB", (16, 8))]
    with pytest.raises(ValueError, match="frame 0 is 16×16 and frame 1 is 8×16"):
        made(cascade, video=images)


def test_several_videos_of_a_prompt_are_those_of_its_repetition(cascade):
    options = {"num_inference_steps": 1, "negative_prompt": ["c", "d"]}
    several, repeated = (
        cascade(prompts, **{**options, **more}, generator=torch.Generator().manual_seed(3)).videos
        for prompts, more in (
            (["a", "b"], {"num_videos_per_prompt": 2}),
            (["a", "a", "b", "b"], {"negative_prompt": ["c", "c", "d", "d"]}),
        )
    )
    assert torch.equal(several, repeated)


def test_a_callback_sees_every_step_and_may_interrupt_the_call(cascade):
    options = {"prompt": "a", "num_inference_steps": [2, 3, 2]}
    seen = []

    def see(pipe, index, timestep, kwargs):
        assert pipe is cascade
        assert timestep == kwargs["step"].t
        if (kwargs["stage"], index) not in seen:  # Heun's steps have two x̂
            seen.append((kwargs["stage"], index))

    def stop(pipe, index, _, kwargs):
        pipe.interrupt = (kwargs["stage"], index) == ("tsr1", 1)
        see(pipe, index, kwargs["step"].t, kwargs)

    def seeded():
        return torch.Generator().manual_seed(0)

    whole = cascade(**options, generator=seeded(), callback_on_step_end=see)
    steps = [(name, i) for name, n in (("base", 2), ("tsr1", 3), ("ssr1", 2)) for i in range(n)]
    assert seen == steps
    seen.clear()
    with pytest.raises(
        CallInterruptedError, match="stage tsr1: interrupted .* after step 2 of 3"
    ) as e:
        cascade(**options, generator=seeded(), callback_on_step_end=stop)
    assert seen == steps[:4]
    assert {*e.value.finished} == {"base"}
    seen.clear()
    again = cascade(**options, generator=seeded(), callback_on_step_end=see, done=e.value.finished)
    assert seen == steps[2:]
    assert torch.equal(again.videos, whole.videos)
