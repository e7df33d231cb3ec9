"""The rules of every command's values, by the command's config in `conf/` and the key.

A key without a rule is checked by the class that takes it.
"""

from cascade.train_values import PARTS
from cascade.values import (
    Rule,
    choice,
    mapping,
    names_of_runs,
    number,
    one_or_several,
    part,
    several,
    switch,
    text,
    whole,
)

#: The largest seed of a generator.
SEED = whole(0, 2**63 - 1)
DTYPES = ("float32", "bfloat16", "float16")

_SHARDS = "name the shards: make {} SHARDS='/data/{{000..099}}.tar'"

_RUNS = {"paths.runs": text().hint("a folder; a number needs quotes: paths.runs=\"'1'\"")}
#: The stages of a cascade, and its settings for sampling.
_CHAIN: dict[str, Rule] = {
    "cascade.name": text(),
    "cascade.stages": several(text()).hint("see conf/cascade/demo.yaml"),
    "cascade.sampling": mapping().or_null,
    "cascade.sampling.*": mapping().or_null.hint("such as cascade.sampling={base: {steps: 8}}"),
}
#: What a cascade is opened with.
_CASCADE: dict[str, Rule] = {
    **_RUNS,
    **_CHAIN,
    "run": names_of_runs(),
    "bundle": text().or_null,
    "out": text(),
    "device": text(),
    "dtype": choice(*DTYPES).hint("set dtype=bfloat16 on a GPU, float32 on a CPU"),
    "seed": SEED,
}

SAMPLE: dict[str, Rule] = {
    "prompt": text().or_null.hint(
        "make sample PROMPT='…', or with ARGS: \"prompt='…'\" in both quotes"
    ),
    "negative_prompt": text().hint("quote it: \"negative_prompt='…'\""),
    **_CASCADE,
    "num_videos": whole(1),
    "first": whole(0),
    "from": text().or_null.hint("a video that make sample wrote"),
    **{name: switch() for name in ("same", "overwrite")},
    "num_inference_steps": one_or_several(whole(1)).or_null.hint("null: the bundle's"),
    "guidance_scale": one_or_several(number()).or_null.hint("null: the bundle's"),
    **{name: whole(1).or_null for name in ("num_frames", "height", "width")},
    **{name: number(above=0).or_null for name in ("seconds", "fps", "memory")},
    "zoom": number(above=0),
    "timeline": Rule(
        wants="a YAML or JSON file, or null",
        holds=lambda v: v is None or isinstance(v, str | list),
    ),
    "stages": several(text()).or_null.hint("such as stages=[tsr1,ssr1]"),
    **{name: whole(1).or_null for name in ("window", "tile", "base_window")},
    "batch_size": whole(1),
    **{name: switch() for name in ("loop", "keep")},
    "way": text().or_null,
    **{name: text().or_null for name in ("image", "last_image", "video", "mask")},
    "connect": several(text(), least=2).or_null.hint("such as connect=[a.mp4,b.mp4]"),
    "indices": several(whole(0)).or_null.hint("such as indices=[0,8]"),
    "strength": number(least=0, most=1).or_null,
    "share": number(above=0, below=1),
    "fit": choice("crop", "pad"),
    "format": choice("mp4", "gif", "png").or_null.hint("null: png for num_frames=1, else mp4"),
    "offload": switch(),
    "batch": text().or_null.hint("a YAML or JSON file"),
    "parts": whole(1),
    "part": whole(0),
}

EVALUATE: dict[str, Rule] = {
    **_CASCADE,
    "batch_size": whole(1),
    "world": text().or_null,
    **{name: part("see conf/evaluate.yaml") for name in ("prompts", "parser", "truth")},
    "long": part("see conf/evaluation").or_null,
}

_STEPS = whole(1)
TRAIN: dict[str, Rule] = {
    **_RUNS,
    "seed": SEED,
    "init_from": text().or_null.hint(
        "the folder of a bundle, such as runs/demo/base/default/bundle"
    ),
    **{
        f"stage.{name}": part(f"choose a config: {group}@stage.{name}=…, of conf/{group}")
        for name, group in (
            ("kind", "kind"),
            ("diffusion", "diffusion"),
            ("text", "text"),
            ("codec", "codec"),
            ("objective", "objective"),
            ("train.optimizer", "optim"),
        )
    },
    **{
        f"stage.{name}": part(f"set the class alone: stage.{name}._target_={example}")
        for name, example in (
            ("net", "cascade.nn.dit.DiT"),
            ("target", "cascade.grid.Grid"),
            ("sampling", "cascade.diffusion.process.Sampling"),
            ("sampling.sampler", "cascade.diffusion.sampler.DDIM"),
            ("sampling.guidance", "cascade.diffusion.guidance.Guidance"),
            ("train", "stages.training.Training"),
            ("train.lr_factor", "cascade.optim.WarmupDecay"),
            ("train.modes", "cascade.conditioning.Modes"),
        )
    },
    "stage.text.name": text().hint(
        "the folder of a T5, or its name on the hub: stage.text.name=/models/t5-v1_1-xxl"
    ),
    "stage.text.width": whole(1).hint("the width of the encoder: stage.text.width=4096"),
    "stage.kind.factor": whole(2).hint("such as stage.kind.factor=2"),
    **{f"stage.target.{name}": whole(1) for name in ("frames", "height", "width")},
    "stage.target.fps": number(above=0),
    "stage.residual": number(above=0).or_null,
    "stage.sampling.steps": _STEPS,
    "stage.sampling.guidance.scale": number(),
    "stage.train.steps": _STEPS,
    "stage.train.global_batch": _STEPS,
    "stage.train.text_dropout": number(least=0, below=1),
    "stage.train.crop": several(whole(1), least=3).or_null.hint("frames, height and width"),
    "stage.train.val_videos": whole(0),
    "stage.train.val_steps": _STEPS,
    "stage.train.low_from": text().or_null.hint("the folder of a bundle of the previous stage"),
    "stage.train.compile": switch().or_null,
    "stage.train.lr_factor.warmup_steps": whole(0),
    "stage.train.lr_factor.total_steps": _STEPS,
    "stage.train.lr_factor.decay_steps": whole(0).or_null,
    **PARTS,
    "callbacks": mapping(),
    "callbacks.*": part("remove a callback by its key: ~callbacks.NAME"),
    "callbacks.ema.sigma_rels": several(number(above=0)).hint("such as [0.05,0.10]"),
    "callbacks.ema.use": number(above=0).or_null,
    "callbacks.ema.snapshot_every": whole(1).or_null,
    "callbacks.checkpoint.every_n_steps": _STEPS,
    "callbacks.samples.every_n_steps": _STEPS,
    "callbacks.samples.count": _STEPS,
    "logger.*": part("choose logger=csv or logger=wandb"),
    "trainer.max_steps": whole(-1),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.log_every_n_steps": whole(1),
    "trainer.val_check_interval": number(above=0),
    "trainer.gradient_clip_val": number(least=0).or_null,
    "trainer.num_nodes": whole(1),
    "trainer.enable_progress_bar": switch(),
}

#: The rules of every command, by the name of its config.
COMMANDS: dict[str, dict[str, Rule]] = {
    "sample": SAMPLE,
    "evaluate": EVALUATE,
    "demo": {**EVALUATE, "page": text(), "shown": whole(0)},
    "train": TRAIN,
    "plan": {
        **TRAIN,
        "plan.device": text(),
        "plan.ranks": whole(1).or_null,
        "plan.rounds": whole(1),
        "plan.warmup": whole(0),
        "plan.measure_s": number(least=0),
        "plan.clip_ms": number(least=0),
        "plan.out": text().or_null,
        **{f"plan.{name}": switch() for name in ("data", "measure", "json")},
    },
    "prove": {
        **TRAIN,
        **{f"prove.{name}": whole(1) for name in ("clips", "draws", "few", "steps", "batch")},
        "prove.only": several(text(), least=0),
        "prove.device": text(),
        "prove.out": text().or_null,
    },
    "bench": {
        **TRAIN,
        **{f"bench.{name}": whole(1) for name in ("warmup", "rounds")},
        **{f"bench.{name}": whole(0) for name in ("profiled", "sampled")},
        **{f"bench.{name}": switch() for name in ("loader", "json")},
        "bench.trace": text().or_null,
    },
    "compare": {
        "runs": one_or_several(text()).hint("name runs: make compare RUNS='runs/demo/ssr1/*'"),
        "page": text(),
        "prompts": whole(0),
        "report": switch(),
    },
    "params": _CHAIN,
    "bundle": {
        **_RUNS,
        **_CHAIN,
        "run": names_of_runs(),
        "out": text().hint("make bundle CASCADE=… OUT=folder"),
    },
    "reconstruct": {
        "run": text().hint("the folder of a finished run"),
        "width": number(above=0).hint("make ema STAGE=… WIDTH=0.07"),
        "to": text(),
    },
    "shards": {
        "from": text().hint("name the videos: make shards FROM=folder TO=folder"),
        "to": text().or_null.hint("make shards FROM=folder TO=folder"),
        **{name: part("see conf/shards.yaml") for name in ("columns", "run", "cluster.shards")},
        **{f"columns.{name}": text() for name in ("path", "caption")},
        "run.deadline_s": number(above=0),
        "run.memory_gb": number(least=1).or_null.hint("a reader needs about 1: run.memory_gb=4"),
        "run.ahead": whole(1),
        "run.thumbnails": whole(0),
    },
    "index": {
        "shards": one_or_several(text()).hint(_SHARDS.format("index")),
        "depth": choice("probe", "keyframes", "full", "decord").hint("make index DEPTH=keyframes"),
        "workers": whole(1).or_null,
    },
    "captions": {
        "shards": one_or_several(text()).hint(_SHARDS.format("captions")),
        "endpoint": text().hint(
            "name a server: make captions ENDPOINT=http://localhost:8000/v1, or ENDPOINT=local"
        ),
        "model": text().hint("make captions MODEL=name, as the endpoint calls it"),
        **{name: whole(1) for name in ("frames", "side", "concurrency", "attempts")},
        "quality": whole(1, 100),
        "limit": whole(1).or_null,
        "only": choice("missing", "shared").or_null,
        **{name: number(above=0) for name in ("timeout_s", "patience_s")},
        **{name: switch() for name in ("structured", "replace", "download")},
        "max_cost": number(least=0).or_null,
    },
    "embeddings": {
        "shards": one_or_several(text()).hint(_SHARDS.format("embeddings")),
        "encoder": text().hint("name a T5: make embeddings ENCODER=/models/t5-v1_1-xxl"),
        "max_tokens": whole(1),
        "batch_tokens": whole(1),
        **{name: switch() for name in ("replace", "download")},
        "dtype": choice(*DTYPES),
        "device": text(),
    },
}
