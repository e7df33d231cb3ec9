"""The sampling command: files in, files out."""

import os
import shlex
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cascade.conditioning import source_names
from cascade.entry import CONF
from cascade.grid import Grid
from cascade.sample_files import file_name, request_id, slug
from cascade.sample_record import record_of
from cascade.sources import Sources
from cascade.video import read_frames, write_mp4, write_png

#: Libraries that only training needs; together they take 5 s to import.
TRAINING = (
    *("pytorch_lightning", "lightning_fabric", "torchmetrics", "torch._dynamo", "wandb"),
    *("transformers", "tensorboard", "scipy", "pyarrow"),
)
SAMPLE_AND_SHOW = f"""
import sys
from cascade.sample import main
main()
print("imported:", [name for name in {TRAINING} if name in sys.modules])
"""

GRIDS = {
    "base": Grid(frames=4, height=8, width=8, fps=4),
    "tsr1": Grid(frames=8, height=8, width=8, fps=8),
    "ssr1": Grid(frames=8, height=16, width=16, fps=8),
}


@pytest.fixture
def files(tmp_path):
    levels = torch.linspace(-1, 1, 24).view(1, 24, 1, 1).expand(3, 24, 32, 32)
    write_mp4(tmp_path / "ramp.mp4", levels, fps=8)
    for name, level in (("dark", -1.0), ("light", 1.0)):
        write_png(tmp_path / f"{name}.png", torch.full((3, 20, 20), level))
    half = torch.ones(3, 20, 20)
    half[..., 10:] = -1
    write_png(tmp_path / "half.png", half)
    write_png(tmp_path / "wide.png", torch.ones(3, 20, 40))
    return tmp_path


def prompt_of(files, grids=GRIDS, **values):
    """What the command makes of its arguments, files named by their names alone."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("sample", overrides=["prompt=a"])

    def path(value):
        if isinstance(value, list):
            return [path(one) for one in value]
        return str(files / value) if str(value).endswith((".mp4", ".png")) else value

    named = {name: path(value) for name, value in values.items()}
    return Sources.of({**OmegaConf.to_container(cfg), **named}).prompt(grids)


def levels_and_places(given):
    places = given.mask[0, 0, :, 0, 0].nonzero().flatten().tolist()
    return [round(float(v), 1) for v in given.frames[0, :, places].mean((0, 2, 3))], places


def test_text_alone_gives_nothing(files):
    assert prompt_of(files).arguments(2) == {}


@pytest.mark.parametrize(
    ("values", "levels", "places"),
    [
        ({"image": "dark.png"}, [-1.0], [0]),
        ({"last_image": "light.png"}, [1.0], [6]),
        ({"image": "dark.png", "last_image": "light.png"}, [-1.0, 1.0], [0, 6]),
        ({"video": "ramp.mp4"}, [0.8, 0.9, 1.0], [0, 1, 2]),
        (
            {"video": "ramp.mp4", "way": "extend_backward"},
            [-1.0, -0.9, -0.8, -0.7],
            [4, 5, 6, 7],
        ),
        ({"video": "ramp.mp4", "way": "loop"}, [0.9, 1.0, -1.0, -0.9], [0, 1, 6, 7]),
        ({"connect": ["ramp.mp4", "ramp.mp4"]}, [0.9, 1.0, -1.0, -0.9], [0, 1, 6, 7]),
        ({"video": "ramp.mp4", "indices": [0, 4, 6]}, [-1.0, -0.7, -0.5], [0, 4, 6]),
        (
            {"video": "ramp.mp4", "way": "extend_backward", "share": 0.4},
            [-1.0, -0.9, -0.8],
            [4, 5, 6],
        ),
    ],
)
def test_files_are_given_where_their_way_puts_them(files, values, levels, places):
    prompt = prompt_of(files, **values)
    found, where = levels_and_places(prompt.given)
    assert where == places
    assert found == pytest.approx(levels, abs=0.11)
    closes = "last_image" in values or "share" in values
    assert prompt.end == (places[-1] + 1 if closes else None)
    assert prompt.arguments(3)["given"].frames.shape == (3, 3, 8, 16, 16)


def test_a_region_keeps_what_its_mask_shows_white(files):
    given = prompt_of(files, video="ramp.mp4", mask="half.png").given
    assert given.mask[..., :8].all()
    assert not given.mask[..., 8:].any()
    levels = given.frames[0, 0, :, 0, 0]
    assert levels.tolist() == pytest.approx([-1 + 2 * i / 23 for i in range(8)], abs=0.05)


def test_a_video_to_restyle_is_where_the_cascade_starts_and_fixes_nothing(files):
    arguments = prompt_of(files, video="ramp.mp4", strength=0.7).arguments(2)
    assert set(arguments) == {"start", "strength"}
    assert arguments["start"].shape == (2, 3, 8, 16, 16)
    assert arguments["strength"] == 0.7


def test_where_the_last_frame_is_placed_is_said(files, caplog):
    caplog.set_level("INFO")
    prompt_of(files, image="dark.png", last_image="light.png")
    assert (
        "last frame placed at 6: the base generates every 2nd frame; the video has 7 frames"
        in caplog.messages
    )


def test_stages_that_do_not_see_a_given_frame_are_named(files, caplog):
    caplog.set_level("WARNING")
    prompt_of(files, video="ramp.mp4", indices=[0, 3, 4])
    (said,) = [one for one in caplog.messages if one.startswith("stage ")]
    assert "stage base generates only frames 0, 2, …, so it ignores the given frames [3]" in said


def test_files_that_do_not_go_together_are_refused(files):
    for values, match in (
        ({"video": "ramp.mp4", "image": "dark.png"}, "takes exactly image=… and video=…"),
        (
            {"video": "ramp.mp4", "way": "sideways"},
            "way=sideways: unknown way to prompt; known:",
        ),
        ({"video": "ramp.mp4", "way": "connect"}, "way=connect needs connect=…"),
        ({"way": "region"}, "way=region needs video=… and mask=…"),
        (
            {"video": "ramp.mp4", "mask": "half.png", "way": "loop"},
            "way=loop takes video=…, not mask=",
        ),
        ({"connect": ["ramp.mp4"]}, "connect: must be two videos"),
        ({"video": "ramp.mp4", "share": 1.0}, "share=1.0: .* more than 0 and less than 1"),
        ({"video": "ramp.mp4", "indices": [0, 8]}, r"indices=\[0, 8\]: .* from 0 to 7"),
        (
            {"video": "ramp.mp4", "strength": 1.5},
            "strength=1.5: must be a number from 0 to 1",
        ),
        ({"video": "ramp.mp4", "mask": "light.png"}, "but all of it is white"),
        ({"video": "ramp.mp4", "mask": "wide.png"}, r"mask is 20×40 and the video 32×32"),
        ({"video": "dark.png", "strength": 0.5}, r"dark.png: .* gives 1 of the 8 frames required"),
    ):
        with pytest.raises(ValueError, match=match):
            prompt_of(files, **values)


def test_the_config_has_every_source_and_nothing_is_given_by_default():
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("sample", overrides=["prompt=a"])
    assert {cfg[name] for name in source_names()} == {None}


@pytest.mark.parametrize(
    ("overrides", "run"),
    [
        (["run='longer'"], "longer"),
        (["run={base: longer}"], {"base": "longer"}),
        (["run='default'", "run={base:longer}"], {"base": "longer"}),
    ],
)
def test_a_run_is_named_for_all_stages_or_for_some(overrides, run):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        assert compose("sample", overrides=["prompt=a", *overrides]).run == run


def test_make_sample_hands_its_name_to_the_command():
    done = subprocess.run(
        ["make", "--dry-run", "sample", "NAME=longer"], capture_output=True, text=True, check=True
    )
    assert "run='longer'" in shlex.split(done.stdout)


REQUEST = {
    **{"prompt": "a ball", "negative_prompt": "", "seed": 0, "format": "mp4", "share": 0.5},
    **dict.fromkeys(("num_inference_steps", "guidance_scale", "frames", "way", "strength")),
    **dict.fromkeys(("dtype", "image", "video")),
}


def named(folder, **values):
    """The file name of a request to the bundle in a folder."""
    asked = {**REQUEST, **values}
    return file_name(asked, request_id(record_of(asked, bundles=[folder], sampling=[{}])), 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "a cube"},
        {"prompt": "a  ball"},
        {"seed": 1},
        {"num_inference_steps": 4},
        {"guidance_scale": [3, 1, 1]},
        {"negative_prompt": "b"},
        {"frames": 8},
        {"way": "loop"},
        {"strength": 0.5},
        {"share": 0.25},
        {"dtype": "bfloat16"},
        {"image": "dark.png"},
    ],
)
def test_another_request_has_another_file_and_the_same_one_the_same(files, changed):
    values = {k: str(files / v) if k == "image" else v for k, v in changed.items()}
    assert named(files, **values) == named(files, **values) != named(files)


def test_another_bundle_or_another_content_of_a_source_has_another_file(files):
    before = named(files, image=str(files / "dark.png"))
    write_png(files / "dark.png", torch.zeros(3, 20, 20))
    other = named(files, image=str(files / "dark.png"))
    (files / "card.json").write_text("{}")
    assert len({before, other, named(files, image=str(files / "dark.png"))}) == 3


@pytest.mark.parametrize("prompt", ["x" * 10_000, "🦊" * 60, "雪の上を走る" * 20, "?!", ""])
def test_a_file_name_of_any_prompt_fits_and_tells_prompts_apart(files, prompt):
    name = named(files, prompt=prompt, seed=2**63 - 1)
    assert len(name.encode()) <= 255
    (files / name).touch()
    assert name != named(files, prompt=f"{prompt}!", seed=2**63 - 1)


def test_the_start_of_a_prompt_is_in_the_file_name():
    assert slug("a/../b c") == "a-b-c"
    assert slug("雪の上を 走る") == "雪の上を-走る"
    assert slug("🦊") == "untitled"


@pytest.mark.slow
def test_the_command_writes_videos_without_the_libraries_of_training(tmp_path, bundle_of):
    for stage in ("base", "tsr1", "ssr1"):
        bundle_of(f"demo/{stage}", tmp_path / "demo" / stage / "default" / "bundle")
    write_png(tmp_path / "first.png", torch.zeros(3, 32, 32))
    command = [sys.executable, "-c", SAMPLE_AND_SHOW, "prompt='a ball, red: {big}'"]
    command += [f"paths.runs={tmp_path}", "num_videos=2", f"out='{tmp_path}/at 16:40'"]
    command += [f"image={tmp_path}/first.png", f"last_image={tmp_path}/first.png"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    files = sorted((tmp_path / "at 16:40").glob("*.mp4"))
    assert [path.name[:18] for path in files] == ["a-ball-red-big-0-0", "a-ball-red-big-0-1"]
    frames, times = read_frames(files[0])
    assert frames.shape == (7, 32, 32, 3)  # it ends at the last time of the base
    assert times[1] == pytest.approx(1 / 8)
    assert (frames[[0, -1]].float() - 127.5).abs().max() < 12
    assert "last frame placed at 6" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_a_command_that_computes_nothing_imports_no_torch():
    code = "import sys, cascade.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_parameters_of_stages_are_counted_without_training_and_without_sympy():
    code = "import sys, cascade.params as p; p.build_on_meta(['demo/base', 'imagen_video/ssr1']); "
    code += "print(*{'sympy', 'pytorch_lightning', 'torchmetrics'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"
