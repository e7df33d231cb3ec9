"""What a user types after `make` reaches the program as typed, through make, shell and Hydra."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = """#!{python}
import json, os, sys
if sys.argv[1] == "-c":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
print(json.dumps([sys.argv[1:], os.environ.get("PROMPT"), os.environ.get("RUNS")]))
"""


@pytest.fixture
def make(tmp_path):
    """Runs a target with a Python that prints its arguments."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    (tmp_path / ".ready-dev,slurm").touch()
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}

    def run(*words, root=ROOT, env=None):
        command = ["make", "--no-print-directory", "-s", f"VENV={tmp_path}", *words]
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False, env=clean | (env or {})
        )
        if done.returncode:
            raise ValueError(done.stderr)
        return json.loads(done.stdout)

    return run


def config(words, **environ):
    """The values of overrides, resolved."""
    parsed = OverridesParser.create().parse_overrides([w for w in words if "=" in w])
    values = {one.key_or_group: one.value() for one in parsed}
    return OmegaConf.to_container(OmegaConf.create(values), resolve=True)


ODD = [
    "plain",
    "it's",
    "two  spaces",
    "win $1000 $(HOME) ${x} $$",
    "back\\slash",
    "ends in \\",
    "a \\' b",
    'a "b" `c`',
    "{0..9}, [a] #1",
    "é 🎈",
]
TYPED = [
    ("shards", "FROM", "from"),
    ("shards", "TO", "to"),
    ("index", "SHARDS", "shards"),
    ("captions", "SHARDS", "shards"),
    ("captions", "ENDPOINT", "endpoint"),
    ("captions", "MODEL", "model"),
    ("embeddings", "ENCODER", "encoder"),
    ("train", "DATA", "data.shards"),
    ("train", "NAME", "name"),
    ("overfit", "CLIP", "clip"),
    ("ema", "TO", "to"),
    ("sample", "NAME", "run"),
    ("sample", "BATCH", "batch"),
]


@pytest.mark.parametrize(("target", "variable", "key"), TYPED)
def test_a_variable_reaches_hydra_as_typed(make, target, variable, key):
    for text in ODD:
        words, *_ = make(target, f"{variable}={text}", *(["WIDTH=1"] if target == "ema" else []))
        kept = [word for word in words if word.startswith(f"{key}=")]
        assert config(kept) == {key: text}


@pytest.mark.parametrize("text", ODD)
def test_prompt_and_runs_are_in_the_environment_as_typed(make, text):
    assert make("sample", f"PROMPT={text}")[1] == text
    assert make("sample", env={"PROMPT": text})[1] == text
    assert make("compare", f"RUNS={text}")[2] == text


def test_a_batch_is_divided_into_parts_and_has_no_prompt_but_the_users(make):
    words, *_ = make("sample", "BATCH=b.yaml")
    assert not [word for word in words if word.startswith(("-", "prompt", "part")) and word != "-m"]
    assert "prompt=${oc.env:PROMPT}" in make("sample", "BATCH=b.yaml", "PROMPT=a")[0]
    words, *_ = make("sample", "BATCH=b.yaml", "PARTS=4")
    launched = {"hydra/launcher=local", "hydra.launcher.jobs=4"}
    assert {"--multirun", "parts=4", "part=range(4)", *launched} <= {*words}
    words, *_ = make("sample", "BATCH=b.yaml", "PARTS=4", "CLUSTER=mine")
    assert {"part=range(4)", "hydra/launcher=slurm", "cluster=mine"} <= {*words}
    with pytest.raises(ValueError, match="make sample BATCH=file PARTS=4"):
        make("sample", "PARTS=4")


def test_args_are_several_words_in_the_shells_quotes_with_every_dollar(make):
    words, *_ = make("sample", "ARGS='b=$x y' c=2")
    assert words[-2:] == ["b=$x y", "c=2"]
    words, *_ = make("sample", 'ARGS=a=${paths.runs} "b=win $1000"')
    assert words[-2:] == ["a=${paths.runs}", "b=win $1000"]


def test_the_environment_is_read_as_a_variable_and_a_target_has_its_own_defaults(make):
    assert "data.shards='e$n'" in make("plan", env={"DATA": "e$n"})[0]
    assert {"data=smoke", "name='smoke'"} <= {*make("smoke", env={"DATA": "x"})[0]}
    assert "name='mine'" in make("smoke", "NAME=mine")[0]


@pytest.mark.parametrize(
    "text",
    [
        "stages: [base, tsr1]   # sizes: [small, large]\n",
        "stages:\n  - base   # the first\n  - tsr1\n",
        "name: c\nstages: ['base',\n  \"tsr1\"]\n",
    ],
)
def test_all_stages_are_read_as_yaml(make, tmp_path, text):
    root = tmp_path / "root"
    (root / "conf/cascade").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        (root / name).write_text((ROOT / name).read_text())
    (root / "conf/cascade/mine.yaml").write_text(text)
    os.utime(root / "pyproject.toml", (0, 0))
    words, *_ = make("train", "STAGE=all", "CASCADE=mine", root=root)
    assert "stage=mine/base,mine/tsr1" in words
    (root / "conf/cascade/mine.yaml").write_text("name: c\n")
    with pytest.raises(ValueError, match="STAGE=all: conf/cascade/mine.yaml has no list of stages"):
        make("train", "STAGE=all", "CASCADE=mine", root=root)


def test_the_config_of_a_stage_is_printed_with_its_args(make):
    words, *_ = make("config", "ARGS=seed=3")
    assert (words[1], words[-1]) == ("cascade.config", "seed=3")


def test_help_names_every_target_and_the_defaults_of_variables():
    text = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=ROOT, text=True)
    targets = re.findall(r"^([a-z-]+):.*## \[", (ROOT / "Makefile").read_text(), re.M)
    assert len(targets) >= 20
    assert all(f"make {target} " in text for target in targets)
    for name, default in {"CASCADE": "demo", "STAGE": "base", "DEPTH": "keyframes"}.items():
        assert re.search(rf"^  {name} .*\[{default}\]$", text, re.M)


def test_a_timeline_takes_the_place_of_the_default_prompt_and_not_of_a_typed_one(make):
    words, *_ = make("sample", "ARGS=timeline=t.yaml")
    assert not [word for word in words if word.startswith("prompt=")]
    words, *_ = make("sample", "ARGS=timeline=t.yaml", "PROMPT=a ball")
    assert [word for word in words if word.startswith("prompt=")]


def test_a_demo_that_there_is_not_is_refused(make):
    with pytest.raises(ValueError, match="make demo has the cascades demo and minute, not mine"):
        make("demo", "CASCADE=mine")
