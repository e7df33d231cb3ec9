"""Wrong values of every command: each gives one line with the key, the value and the rule."""

import functools
import importlib
import re
import shlex
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from cascade import values
from cascade.command_values import COMMANDS
from cascade.entry import CONF, check_choices
from cascade.files.text import typed
from tests.measure import crossed

MODULES = {
    **{name: f"cascade.{name}" for name in COMMANDS},
    "bundle": "cascade.join",
    "bench": "cascade.bench.__main__",
    "demo": "cascade.demo.__main__",
    "shards": "data.ingest.__main__",
    "index": "data.index.__main__",
    "captions": "data.recaption.__main__",
    "embeddings": "data.embed.__main__",
}
#: A wrong value, and what its line must say besides `key=value: must be`.
WRONG = {
    "sample": {
        "prompt=???": "prompt is missing; it must be text, or null; make sample PROMPT=",
        "prompt=123": "text, or null, but is a whole number",
        "prompt=[a,b]": "text, or null, but is a list of 2",
        "prompt={a: b}": "text, or null, but is a mapping",
        "prompt=true": "text, or null, but is true or false",
        "negative_prompt=1": "text",
        "seed=1.5": "a whole number of at least 0",
        "seed=-1": "a whole number of at least 0",
        "seed=one": "a whole number of at least 0",
        "num_videos=1.5": "a whole number of at least 1",
        "num_videos=two": "a whole number of at least 1",
        "num_videos=0": "a whole number of at least 1",
        "num_inference_steps=abc": "a whole number of at least 1, or a list of them, or null",
        "num_inference_steps=2.5": "a whole number of at least 1, or a list of them, or null",
        "num_inference_steps=[4,0]": "a whole number of at least 1, or a list of them, or null",
        "guidance_scale=abc": "a finite number, or a list of them, or null",
        "guidance_scale=nan": "a finite number, or a list of them, or null",
        "num_frames=1.5": "a whole number of at least 1, or null",
        "seconds=0": "a number above 0, or null",
        "fps=fast": "a number above 0, or null",
        "memory=-1": "a number above 0, or null",
        "window=0": "a whole number of at least 1, or null",
        "tile=big": "a whole number of at least 1, or null",
        "stages=tsr1": "a list of at least 1",
        "timeline=3": "a YAML or JSON file, or null",
        "loop=round": "true or false",
        "height=tall": "a whole number of at least 1, or null",
        "image=3": "text, or null",
        "indices=[1.5]": "a list of at least 1, each a whole number of at least 0, or null",
        "strength=2": "a number of at least 0 and of at most 1, or null",
        "connect=[a.mp4]": "a list of at least 2, each text, or null",
        "batch=3": "text, or null, but is a whole number",
        "parts=0": "a whole number of at least 1",
        "part=-1": "a whole number of at least 0",
        "share=0": "a number above 0 and below 1",
        "share=half": "a number above 0 and below 1",
        "run=5": "the name of a run, or a mapping from stage to name",
        "run={base: 5}": "the name of a run, or a mapping from stage to name",
        "format=avi": "one of mp4, gif",
        "dtype=fp16": "one of float32, bfloat16, float16",
        "dtype=int32": "one of float32, bfloat16, float16",
        "offload=maybe": "true or false",
        "out=1": "text",
        "paths.runs=null": "text, but is null; a folder",
        "cascade.stages=[1]": "a list of at least 1, each text",
        "cascade.stages=base": "a list of at least 1, each text, but is text",
        "cascade.sampling=3": "a mapping, or null",
        "cascade.sampling.base=3": "a mapping, or null, but is a whole number; such as",
    },
    "evaluate": {
        "batch_size=0": "a whole number of at least 1",
        "seed=abc": "a whole number of at least 0",
        "dtype=half": "one of float32, bfloat16, float16",
        "parser=parse": "a mapping with a _target_",
    },
    "demo": {"shown=all": "a whole number of at least 0"},
    "train": {
        "seed=1.5": "a whole number of at least 0",
        "init_from=1": "text, or null",
        "stage.train.steps=2.5": "a whole number of at least 1",
        "stage.train.steps=0": "a whole number of at least 1",
        "stage.train.global_batch=many": "a whole number of at least 1",
        "stage.train.text_dropout=1": "a number of at least 0 and below 1",
        "stage.train.crop=[8,32]": "a list of at least 3, each a whole number of at least 1, or n",
        "stage.train.optimizer=adamw": "choose a config: optim@stage.train.optimizer=…",
        "stage.diffusion=flow_x": "choose a config: diffusion@stage.diffusion=…",
        "stage.text=t5": "choose a config: text@stage.text=…",
        "stage.kind=ssr": "choose a config: kind@stage.kind=…",
        "stage.net=DiT": "set the class alone: stage.net._target_=",
        "stage.sampling.sampler=ddim": "set the class alone: stage.sampling.sampler._target_=",
        "stage.sampling.steps=few": "a whole number of at least 1",
        "stage.target.fps=0": "a number above 0",
        "stage.target.frames=8.5": "a whole number of at least 1",
        "stage.train.lr_factor.warmup_steps=none": "a whole number of at least 0",
        "callbacks.ema.sigma_rels=[]": "a list of at least 1, each a number above 0",
        "callbacks.ema.sigma_rels=0.1": "a list of at least 1, each a number above 0",
        "stage.net.width=0": "a whole number of at least 1",
        "stage.train.optimizer.betas=[0.9]": "a list of at least 2, each a number of at least 0",
        "stage.train.modes.shares=null": "a mapping, but is null",
        "stage.train.modes.shares.text=some": "a number of at least 0",
        "stage.diffusion.schedule.logsnr_shift=x": "a finite number",
        "data.shards=[]": "text, a list of at least 1 text, or a mapping of sets, but is a list of",
        "data.loading.num_workers=two": "a whole number of at least 0",
        "callbacks.checkpoint.keep=null": "a mapping with a _target_, but is null; keep fewer",
        "callbacks.interrupt.leg_s=-1": "a number above 0, or null",
        "callbacks.ema=null": "remove a callback by its key: ~callbacks.NAME",
        "callbacks.checkpoint.every_n_steps=0": "a whole number of at least 1",
        "logger.wandb=none": "choose logger=csv or logger=wandb",
        "trainer.log_every_n_steps=-1": "a whole number of at least 1",
        "trainer.val_check_interval=0": "a number above 0",
        "trainer.accumulate_grad_batches=1.5": "a whole number of at least 1",
        "trainer.gradient_clip_val=strong": "a number of at least 0, or null",
    },
    "plan": {"plan.ranks=0": "a whole number of at least 1, or null", "plan.json=1": "true or fal"},
    "prove": {"prove.clips=0": "a whole number of at least 1", "prove.only=text": "a list, each t"},
    "bench": {"bench.rounds=0": "a whole number of at least 1"},
    "compare": {"runs=???": "runs is missing; ", "prompts=some": "a whole number of at least 0"},
    "bundle": {"run=5": "the name of a run, or a mapping from stage to name", "out=1": "text"},
    "reconstruct": {"run=???": "run is missing; it must be text", "width=wide": "a number above 0"},
    "shards": {
        "from=???": "from is missing; it must be text; name the videos: make shards FROM=folder",
        "from=3": "text, but is a whole number",
        "run.deadline_s=long": "a number above 0",
        "run.memory_gb=0.001": "a number of at least 1, or null",
        "columns=null": "a mapping with a _target_",
    },
    "index": {
        "shards=???": "shards is missing; .*make index SHARDS=",
        "depth=deep": "one of probe, keyframes, full",
        "workers=0": "a whole number of at least 1, or null",
    },
    "captions": {
        "shards=???": "shards is missing; ",
        "endpoint=null": "text, but is null; name a server: make captions ENDPOINT=http",
        "model=???": "model is missing; it must be text; make captions MODEL=name",
        "frames=0": "a whole number of at least 1",
        "quality=101": "a whole number of at least 1 and at most 100$",
        "only=some": "one of missing, shared, or null",
    },
    "embeddings": {
        "encoder=???": "encoder is missing; .*make embeddings ENCODER=",
        "dtype=int8": "one of float32, bfloat16, float16",
    },
}
#: What makes each command's config complete.
COMPLETE = {
    "sample": {"prompt": "a"},
    "compare": {"runs": "a"},
    "reconstruct": {"run": "a", "width": 0.1},
    "shards": {"from": "a"},
    "index": {"shards": "a"},
    "captions": {"shards": "a", "model": "m", "endpoint": "local"},
    "embeddings": {"shards": "a", "encoder": "e"},
}
#: Beside the stages, which tests/cascade/test_configs.py holds to the rules.
SHIPPED = [
    f"{group}={name}"
    for group in ("trainer", "data", "debug", "logger")
    for name in crossed.choices(group)
]
ROWS = [(name, value, said) for name, rows in WRONG.items() for value, said in rows.items()]


@functools.cache
def composed(name: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose(name)
    with open_dict(cfg):
        cfg.update(COMPLETE.get(name, {}))
    return cfg


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_of_every_command_keep_the_rules(name):
    values.check(composed(name), COMMANDS[name])


@pytest.mark.parametrize("choice", SHIPPED)
def test_every_shipped_config_keeps_the_rules(choice):
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        values.check(compose("train", [choice, "data.shards=a"]), COMMANDS["train"])


@pytest.mark.parametrize(("name", "value", "said"), ROWS, ids=[f"{n}:{v}" for n, v, _ in ROWS])
def test_a_wrong_value_gives_one_line(name, value, said):
    (override,) = OverridesParser.create().parse_overrides([value])
    cfg = composed(name).copy()
    OmegaConf.update(cfg, override.key_or_group, override.value(), merge=False, force_add=True)
    with pytest.raises(ValueError, match=said) as refused:
        values.check(cfg, COMMANDS[name])
    line = str(refused.value)
    assert "\n" not in line
    key, _, typed = value.partition("=")
    assert line.startswith(f"{key} is missing; " if typed == "???" else f"{value}: must be ")


def test_a_part_without_its_own_values_is_refused():
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=["text@stage.text=t5"])
    with pytest.raises(ValueError, match="stage.text.name is missing; it must be text; "):
        values.check(cfg, COMMANDS["train"])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "params"])
def test_every_command_checks_its_values_first(name, monkeypatch, tmp_path):
    value = next(iter(WRONG[name]))
    key, _, typed = value.partition("=")
    complete = [f"{k}='{v}'" for k, v in COMPLETE.get(name, {}).items() if k != key]
    overrides = complete if typed == "???" else [*complete, value]
    rooted = "paths" in composed(name)
    paths = [f"paths.runs={tmp_path}"] if rooted else []
    monkeypatch.setattr(sys, "argv", ["command", *overrides, *paths])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    main = importlib.import_module(MODULES[name]).main
    with pytest.raises(SystemExit, match=rf"^error: {re.escape(key)}[= ]"):
        main()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["way=loop"], "way=loop needs video=…"),
        (["video=a.mp4", "image=b.png"], "no way .* takes exactly image=… and video=…"),
        (["way=sideways"], "way=sideways: unknown way to prompt"),
        (["out={file}/videos"], "out=.*: cannot be written .*; set out= to another folder"),
        (["device=cuda:9"], "device=cuda:9: cannot be used"),
        (["device=abacus"], "device=abacus: cannot be used"),
        (["device=meta"], "device=meta: cannot be used"),
        (["cascade.stages=[base,base]"], "cascade demo has stage base more than once: base, base;"),
        (["num_inference_steps=[1,2,3,4]"], "num_inference_steps: 3 stages, but 4 values"),
    ],
)
def test_a_request_is_refused_before_a_stage_is_loaded(overrides, said, monkeypatch, tmp_path):
    for stage in ("base", "tsr1", "ssr1"):
        (tmp_path / "demo" / stage / "default" / "bundle").mkdir(parents=True)
    file = tmp_path / "file"
    file.touch()
    typed = [one.format(file=file) for one in overrides]
    argv = ["command", "prompt=a", f"paths.runs={tmp_path}", *typed]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match=said):
        importlib.import_module("cascade.sample").main()
    assert list(tmp_path.glob("demo/samples/*")) == []


@pytest.mark.parametrize("group", ["stage", "trainer", "logger", "experiment"])
def test_a_group_of_null_is_refused_in_one_line(group):
    with pytest.raises(SystemExit, match=f"^{group}=null: null is no config of this group; choose"):
        check_choices([f"{group}=null"])


def test_a_value_is_typed_in_the_quotes_of_a_shell():
    said = typed("SHARDS", "/data/a 'b' $c")
    assert shlex.split(said) == ["SHARDS=/data/a 'b' $c"]
