"""The README's commands, run as they stand, with what makes them small added to ARGS.

Each goes through the Makefile and the shell to the words that Python would get, and these words are
run in a folder of the test's own, one after the other, as a reader would.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.data.ingest.conftest import scene, write_video

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
#: A Python for make that writes its words and its environment down instead of running them.
RECORDER = """#!{python}
import json, os, sys
if sys.argv[1] == "-c":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
"""

SMALL = "debug=smoke logger=csv trainer.enable_progress_bar=false callbacks.ema.snapshot_every=1"
WORDS = [*SMALL.split(), "data=shapes", "data.make.clips=24", "data.make.shard_size=12"]
COMMON = ",".join(f"'{word}'" for word in [*WORDS, "name=default"])
DEMO = f""""common=[{COMMON}]" "rows=[{{base: [], tsr1: [], ssr1: []}}]" prompts.n=4 shown=2"""
QUICK = "measures.text_side=null filters.text=null filters.min_short_side=32"
FEW = "num_inference_steps=2"
ONE = "debug=smoke logger=csv data=shapes data.make.clips=24 data.make.shard_size=12"

#: A command of the README → what is run for it: the command with each `…` filled in, and more ARGS.
STORY: dict[str, tuple[str, str]] = {
    "make demo": ("", DEMO),
    "make sample PROMPT='a large blue cross moves up on a white background'": ("", FEW),
    "make shards FROM=videos TO=clips": ("", QUICK),
    "make plan STAGE=base DATA=clips NAME=mine": ("", f"{SMALL} plan.rounds=2"),
    "make train STAGE='base tsr1 ssr1' DATA=clips NAME=mine": ("", SMALL),
    "make prove STAGE=tsr1 DATA=clips NAME=mine": ("", "'prove.only=[same inputs,given frames]'"),
    "make sample NAME=mine PROMPT='…'": ("make sample NAME=mine PROMPT='a grey square'", FEW),
    "make bundle CASCADE=… OUT=folder": ("make bundle CASCADE=demo OUT=folder", ""),
    "make sample ARGS='bundle=folder'": ("", FEW),
    "make index SHARDS=… DEPTH=full": ("make index SHARDS=clips DEPTH=full", ""),
    "make params CASCADE=imagen_video": ("", ""),
    "make ema STAGE=… NAME=… WIDTH=0.07 TO=…": (
        "make ema STAGE=base NAME=mine WIDTH=0.10 TO=averaged",
        "",
    ),
    "make config STAGE=…": ("make config STAGE=ssr1", ""),
    "make smoke STAGE=…": ("make smoke STAGE=ssr1", "logger=csv"),
    "make overfit STAGE=… CLIP=clip.mp4": (
        "make overfit STAGE=ssr1 CLIP=clip.mp4",
        "stage.train.steps=2 min_psnr=0 min_gain=-99 logger=csv",
    ),
    "make compare RUNS='runs/demo/ssr1/*'": ("", ""),
}
#: The others, and why they are not in the story.
ELSEWHERE = {
    "make evaluate ARGS='joints=true'": "tests/cascade/test_generate.py",
    "make help": "tests/test_makefile.py",
    "make demo CASCADE=minute": "tests/cascade/demo",
    "make new CASCADE=mine FROM=demo": "tests/cascade/test_new.py",
    "make captions": "tests/data/recaption",
    "make embeddings": "tests/data/embed",
    "make setup EXTRAS=dev,slurm,text": "installs packages",
    "make sample PROMPT='…' NAME=<run> CASCADE=<cascade> ARGS='…'": "the story's table of ARGS",
    "make sample FROM=video.mp4": "tests/cascade/test_sample_again.py",
    "make train STAGE=all CASCADE=mine DATA=clips": "tests/cascade/test_configs.py",
    "make train STAGE='base tsr1 ssr1' CASCADE=single_gpu CLUSTER=slurm ARGS='trainer=ddp "
    "cluster.nodes=2 cluster.gpus=8'": "tests/slurm",
    "make sweep STAGE=ssr1 SWEEP='prediction noise_augmentation' CLUSTER=slurm FOLLOW=1": (
        "tests/slurm"
    ),
}


def readme_commands() -> list[str]:
    """Every `make …` of the README with its variables, in its code blocks and its sentences."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("make ")]
    spoken = re.findall(r"`(make [^`]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    return [re.sub(r"\s+#.*", "", line) for line in [*lines, *spoken]]


def table(heading: str) -> list[str]:
    """The ARGS of the table below a heading: each code span of its second column."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| (.+) \|$", section, re.M)[1:]
    return [span for row in rows for span in re.findall(r"`([^`]+=[^`]+)`", row)]


class Reader:
    """Someone who types the README's commands in a folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.record = home / "record.jsonl"
        python = home / "venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(RECORDER.format(python=sys.executable))
        python.chmod(0o755)
        (home / "venv/.ready-dev,slurm").touch()

    def recorded(self, command: str, more: str = "") -> list[tuple[list[str], dict[str, str]]]:
        """The words and the environment of each Python that the command would start."""
        words = shlex.split(command)
        given = [word for word in words if word.startswith("ARGS=")]
        rest = [word for word in words[1:] if not word.startswith("ARGS=")]
        args = " ".join([*(word.removeprefix("ARGS=") for word in given), more])
        self.record.unlink(missing_ok=True)
        made = subprocess.run(
            ["make", "--no-print-directory", f"VENV={self.home}/venv", *rest, f"ARGS={args}"],
            cwd=ROOT,
            env={**os.environ, "RECORD": str(self.record)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        return [tuple(json.loads(line)) for line in self.record.read_text().splitlines()]

    def type(self, command: str, more: str = "") -> str:
        """Run the command; returns its output."""
        output = ""
        for words, env in self.recorded(command, more):
            assert words[0] == "-m", words
            done = commands.run(*words[1:], env=env, cwd=self.home)
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            output += done.stdout
        return output


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    home = tmp_path_factory.mktemp("reader")
    for number in range(8):
        path = home / f"videos/{number}.mp4"
        write_video(path, np.concatenate([scene(2 * number, 40), scene(2 * number + 1, 40)]))
        path.with_suffix(".txt").write_text(f"blocks slide, scene {number}\n")
    for name in ("clip", "a", "b"):
        write_video(home / f"{name}.mp4", scene(ord(name[0]), 32))
    (home / "clip.txt").write_text("blocks slide\n")
    for name, grey in (("a", 30), ("b", 220), ("m", 255)):
        picture = np.full((96, 128, 3), grey, np.uint8)
        picture[:48] = 0  # of the mask: what is regenerated
        Image.fromarray(picture).save(home / f"{name}.png")
    return Reader(home)


def test_every_command_of_the_readme_is_run_here_or_by_a_test_of_its_own():
    bare = {
        f"make {target}"
        for target in (*("prove", "train", "compare", "evaluate", "test", "test-all", "check"),)
    }
    named = {*STORY, *ELSEWHERE, *bare}
    assert sorted({*readme_commands()} - named) == []
    assert sorted({*STORY, *ELSEWHERE} - {*readme_commands()}) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_readme_s_commands_run_one_after_the_other(reader):
    outputs = {
        command: reader.type(typed or command, more) for command, (typed, more) in STORY.items()
    }
    assert (reader.home / "runs/demo/index.html").is_file()
    assert len(list((reader.home / "runs/demo/samples").glob("*.mp4"))) == 3
    assert (reader.home / "clips/report/index.html").is_file()
    assert (reader.home / "averaged/model.safetensors").is_file()
    assert "ssr3" in outputs["make params CASCADE=imagen_video"]
    for args in table("Sample"):
        reader.type("make sample PROMPT='a grey square'", f"{args} {FEW}")


@pytest.mark.parametrize("args", table("Change something"))
def test_what_the_readme_changes_is_a_config(reader, args):
    """As it stands in the table, a change composes to a config."""
    if not args.startswith("make "):
        ((words, env),) = reader.recorded("make config", args)
        assert commands.run(*words[1:], env=env, cwd=reader.home).returncode == 0
