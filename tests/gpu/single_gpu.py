"""Speed and training of the `single_gpu` cascade on a GPU, as one table; not collected by pytest.

    python tests/gpu/single_gpu.py --out DIR [--seconds 120] [--stages base,tsr1,ssr1,ssr2]

First, packed attention (xformers) is compared with unpacked attention in bfloat16. Then, per stage:
a benchmark (training step, sampling, FLOPs, share of the device's matrix peak), and `cascade.train`
for `--seconds`, resumed if it was stopped, with its sample videos. `--small` shrinks every stage,
to try the script on a CPU.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from cascade.curves import last_step, read_curves
from cascade.nn.dit import DiT


def packed_difference() -> float:
    """The largest difference of packed from unpacked outputs, relative to the largest output."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    net = DiT(
        **{"in_channels": 7, "out_channels": 3, "text_width": 64, "num_scalars": 1},
        **{"width": 128, "depth": 2, "head_width": 64},
    ).to(device)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    shapes = [(4, 16, 24), (2, 32, 8), (8, 8, 8)]
    xs = [torch.randn(7, *shape, device=device) for shape in shapes]
    levels = [torch.randn(shape[0], device=device) for shape in shapes]
    texts = [torch.randn(5 + i, 64, device=device) for i in range(3)]
    scalars = torch.randn(3, 1, device=device)
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        packed = net.forward_packed(xs, levels, texts, scalars)
        worst = 0.0
        for i, x in enumerate(xs):
            mask = torch.ones(1, len(texts[i]), dtype=torch.bool, device=device)
            alone = net(x[None], levels[i][None], texts[i][None], mask, scalars[i : i + 1])[0]
            worst = max(worst, float((packed[i] - alone).abs().max() / alone.abs().max()))
    return worst


def run(*command: str) -> str:
    """The standard output of a Cascade command; its error output goes to the terminal."""
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def stage_row(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Benchmark and train one stage; returns its row of the table."""
    common = [f"stage=single_gpu/{name}", f"paths.runs={options.out}/runs", "logger=csv"]
    common += ["data=shapes128"]
    if options.small:
        common += ["debug=smoke", "data=shapes", "data.make.clips=24", "name=default"]
        figures = {}
    else:
        rounds = ["bench.loader=false", "bench.rounds=20", "bench.warmup=5"]
        text = run("cascade.bench", *common, *rounds)
        figures = json.loads(text[text.index("{") :])
    folder = options.out / "runs/single_gpu" / name / "default"
    began, first = time.monotonic(), last_step(folder)
    trainer = [] if options.small else ["trainer=gpu"]
    limit = f"callbacks.interrupt.leg_s={options.seconds}"
    run("cascade.train", *common, *trainer, limit, "trainer.enable_progress_bar=false")
    curves = read_curves(folder)
    for clip in sorted(folder.glob("samples/*/0.mp4"))[-1:]:
        shutil.copy(clip, options.out / f"{name}.mp4")
    loss = [value for _, value in curves.get("train/loss", [(0, float("nan"))])]
    return {
        "stage": name,
        "params_m": figures.get("parameters", 0) / 1e6,
        "clips_per_s": figures.get("clips_per_s"),
        "tflop_per_s": figures.get("tflop_per_s"),
        "share_of_peak": figures.get("share_of_peak"),
        "trained_steps": last_step(folder) - first,
        "seconds": time.monotonic() - began,
        "loss_first": loss[0],
        "loss_last": loss[-1],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--stages", default="base,tsr1,ssr1,ssr2")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [{"packed_difference": packed_difference()}]
    for name in options.stages.split(","):
        rows.append(stage_row(name, options))
        (options.out / "table.json").write_text(json.dumps(rows, indent=2))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")


if __name__ == "__main__":
    main()
