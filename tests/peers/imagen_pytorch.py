"""Cascade beside imagen-pytorch 2.1.0 on this CPU: speed, and quality at equal training time.

`python tests/peers/imagen_pytorch.py` measures both alternately in one run, at equal parameters.
Each has a process of its own that waits while the other works, so a machine that becomes slower
slows both. The script writes `comparison.json` and prints it as tables.

Speed: whole training steps (forward, backward, clipping if the trainer does it, optimizer, EMA),
each at its own best batch size. Quality: bases of 8×16×16 trained in alternating legs on the same
decoded clips with the same frozen word vectors; then the share of held-out prompts that the videos
follow. The peer runs with its defaults, and once more with a learning rate, warm-up, decay and
clipping as in Cascade.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from environment import PEER
from hydra import compose, initialize_config_dir
from protocol import WORKLOADS
from rich.console import Console
from rich.progress import Progress
from sides import processes
from tables import quality_table, speed_table

from cascade.checkpoint.origin import commit
from cascade.entry import CONF
from cascade.eval.following import following
from data.worlds.parse import parse
from data.worlds.shapes import heldout_prompts

OURS, THEIRS = "Cascade", "imagen-pytorch"
FPS = 4.0
#: The largest relative difference in parameters of systems that are compared.
PARAMETERS_DIFFER = 0.03


def process_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """The peer's environment, the output folder and the number of threads, for `processes`."""
    return {"venv": chosen.venv, "out": chosen.out, "threads": chosen.threads}


def check_parameters(counts: dict[str, int]) -> None:
    """Refuse to compare systems with different numbers of parameters."""
    if max(counts.values()) > (1 + PARAMETERS_DIFFER) * min(counts.values()):
        raise ValueError(f"parameters differ by more than {PARAMETERS_DIFFER:.0%}: {counts}")


def measure_speed(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Training speed and cost of both sides, for a base and for super-resolution."""
    workloads = [name for name in WORKLOADS if name != "base 16"]
    steps = 2 * (len(chosen.batches) + 1) + 2 * chosen.rounds
    task = progress.add_task("speed", total=len(workloads) * steps)
    found: dict[str, Any] = {}
    for workload in workloads:
        with processes({OURS: "ours.py", THEIRS: "theirs.py"}, **process_options(chosen)) as sides:
            figures: dict[str, Any] = {}
            for name, side in sides.items():
                figures[name] = side.ask("build", workload=workload)
                figures[name] |= side.ask("flops", batch=2)
                progress.advance(task)
                figures[name]["by_batch"] = {}
                for batch in chosen.batches:
                    side.ask("speed", batch=batch, seconds=0)  # warm-up
                    speed = side.ask("speed", batch=batch, seconds=chosen.round_s / 2, least=2)
                    figures[name]["by_batch"][batch] = speed["clips_per_s"]
                    progress.advance(task)
                by_batch = figures[name]["by_batch"]
                figures[name]["batch"] = max(by_batch, key=by_batch.__getitem__)
                progress.console.log(f"{workload}, {name}: clips/s by batch {by_batch}")
            check_parameters({name: one["parameters"] for name, one in figures.items()})
            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
            for _ in range(chosen.rounds):
                for name, side in sides.items():
                    batch = figures[name]["batch"]
                    answer = side.ask("speed", batch=batch, seconds=chosen.round_s, least=2)
                    rounds[name].append(answer)
                    progress.advance(task)
        for name in sides:
            speeds = [one["clips_per_s"] for one in rounds[name]]
            figures[name]["clips_per_s"] = spread(speeds)
            figures[name]["cores"] = spread([one["cores"] for one in rounds[name]])
            figures[name]["rounds"] = speeds
        ratios = [
            a / b for a, b in zip(figures[OURS]["rounds"], figures[THEIRS]["rounds"], strict=True)
        ]
        found[workload] = {"sides": figures, "times_faster": spread(ratios)}
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_corpus(path: Path, shards: str | None) -> int:
    """Every training clip of the shapes world at 8×16×16, decoded once by Cascade's own loader."""
    with initialize_config_dir(CONF, version_base="1.3"):
        fixed = ["stage=demo/base", "data.batching=fixed"]
        cfg = compose("train", [*fixed, *([f"data.shards={shards}"] if shards else [])])
    data = hydra.utils.instantiate(cfg.data, _convert_="all")
    data.prepare_data()
    data.setup()
    clips: dict[str, tuple[np.ndarray, str]] = {}
    for batch in data.train_loader(first=0, count=len(data.pool.rows) // data.global_batch):
        rows = zip(batch["key"], batch["video"].numpy(), batch["caption"], strict=True)
        clips.update({key: (video, caption) for key, video, caption in rows})
    videos, captions = zip(*(clips[key] for key in sorted(clips)), strict=True)
    np.savez(path, video=np.stack(videos), captions=np.array(captions))
    return len(clips)


def contestants(chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name → script, options, batch size and sampling settings."""
    theirs = {
        "script": "theirs.py",
        "batch": chosen.their_batch,
        "settings": [
            {"steps": steps, "scale": 3.0, "remove_parallel": guidance == "default"}
            for steps in chosen.their_steps
            for guidance in chosen.their_guidance
        ],
    }
    found = {
        OURS: {
            "script": "ours.py",
            "options": {"text_only": not chosen.all_ways},
            "batch": chosen.our_batch,
            "settings": [{"steps": chosen.our_steps, "scale": 3.0}],
        },
        THEIRS: {**theirs, "options": {}},
    }
    if chosen.tuned_lr:
        tuned = {"lr": chosen.tuned_lr, "warmup": 50, "decay": True, "max_grad_norm": 1.0}
        found[f"{THEIRS} tuned"] = {**theirs, "options": tuned}
    return found


def measure_quality(chosen: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Train all alternately for the same time, then count the right held-out prompts."""
    corpus = chosen.out / "clips.npz"
    clips = write_corpus(corpus, chosen.shards)
    prompts = heldout_prompts(chosen.prompts)
    texts, wanted = [text for text, _ in prompts], [words.to_dict() for _, words in prompts]
    runs = contestants(chosen)
    legs = max(1, round(chosen.train_s / chosen.leg_s))
    shows = sum(len(one["settings"]) for one in runs.values())
    task = progress.add_task("quality", total=legs * len(runs) + shows)
    scripts = {name: one["script"] for name, one in runs.items()}
    with processes(scripts, **process_options(chosen)) as sides:
        for name, side in sides.items():
            runs[name] |= side.ask("build", workload="base 16", **runs[name]["options"])
            runs[name]["legs"] = []
        check_parameters({name: one["parameters"] for name, one in runs.items()})
        for _ in range(legs):
            for name, side in sides.items():
                left = chosen.train_s - sum(leg["spent"] for leg in runs[name]["legs"])
                rest = legs - len(runs[name]["legs"])
                began = time.perf_counter()
                leg = side.ask(
                    "learn",
                    corpus=str(corpus.resolve()),
                    batch=runs[name]["batch"],
                    seconds=left / rest,
                    of=chosen.train_s,
                )
                runs[name]["legs"].append({**leg, "spent": time.perf_counter() - began})
                progress.console.log(
                    f"{name}: {leg['seconds']:.0f} s, step {leg['steps']}, loss {leg['loss']:.4f}, "
                    f"{leg['cores']:.2f} cores"
                )
                progress.advance(task)
        for name, side in sides.items():
            runs[name]["shown"] = []
            for number, settings in enumerate(runs[name]["settings"]):
                path = chosen.out / f"{name.replace(' ', '-')}-{number}.npy"
                answer = side.ask(
                    "show", prompts=texts, batch=16, path=str(path.resolve()), settings=settings
                )
                videos = torch.from_numpy(np.load(path))
                result = following(videos, wanted, parse, fps=FPS, prompts=texts)
                runs[name]["shown"].append({**settings, **answer, **result.to_json()})
                progress.console.log(f"{name}: {settings}: prompts all right {result.share()}")
                progress.advance(task)
    return {"clips": clips, "runs": runs}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--venv", type=Path, default=Path(".venv-peer"), help="the peer's environment")
    add("--out", type=Path, default=Path("runs/peer"))
    add("--parts", nargs="+", choices=("speed", "quality"), default=["speed", "quality"])
    add("--threads", type=int, default=2)
    add("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="speed: sizes to try")
    add("--rounds", type=int, default=7, help="speed: alternating measurements of each")
    add("--round-s", type=float, default=10.0)
    add("--shards", default=None, help="quality: training shards; default: the demo's")
    add("--train-s", type=float, default=480.0, help="quality: seconds of training for each")
    add("--leg-s", type=float, default=60.0)
    add("--prompts", type=int, default=128)
    add("--our-batch", type=int, default=32)
    add("--their-batch", type=int, default=4)
    add("--our-steps", type=int, default=12)
    add("--their-steps", type=int, nargs="+", default=[32])
    add(
        "--their-guidance",
        nargs="+",
        choices=("default", "plain"),
        default=["default"],
        help="the peer's default removes the part of guidance parallel to the prediction",
    )
    add(
        "--tuned-lr", type=float, default=5e-4, help="rate of the peer's second run; 0: no such run"
    )
    add("--all-ways", action="store_true", help="train Cascade's base with all ways to prompt")
    return parser.parse_args()


def main() -> None:
    """Run the comparison, write `comparison.json` and print the tables."""
    chosen, console = arguments(), Console(log_path=False)
    console.width = max(console.width, 175)  # so that a log does not wrap the tables
    chosen.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "peer": PEER,
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": os.getloadavg()[0],
        "arguments": {name: str(value) for name, value in vars(chosen).items()},
    }
    measures = {"speed": (measure_speed, speed_table), "quality": (measure_quality, quality_table)}
    for part in chosen.parts:
        measure, table = measures[part]
        with Progress(console=console) as progress:
            report[part] = measure(chosen, progress)
        (chosen.out / "comparison.json").write_text(json.dumps(report, indent=1) + "\n")
        console.print(table(report[part]))


if __name__ == "__main__":
    main()
