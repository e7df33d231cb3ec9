"""The plan's memory beside the peak of CUDA's allocator, as one table; not collected by pytest.

    python tests/gpu/plan_memory.py [--stages base,tsr1,ssr1,ssr2] [--out FILE]

Per stage of `single_gpu`, in bfloat16, with and without activation checkpointing: bytes counted on
`meta`, and `torch.cuda.max_memory_allocated` of real steps in Lightning's order (aim: ±10 %).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cascade.bench.clips import training_batch
from cascade.doctor.dry import Clips, DryStage, Execution
from cascade.ema import PowerEMA
from cascade.entry import CONF
from cascade.grid import Grid

CAPTION = "a small red circle moves left on a black background"
GPU = Execution(cuda=True, precision="bf16-mixed", sigma_rels=(0.05, 0.1))


def real(config: dict[str, Any]) -> int:
    """The peak memory of CUDA's allocator in three steps."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    stage = hydra.utils.instantiate(config, _convert_="all")
    stage.configure_model()
    stage.to("cuda")
    optimizer, ema = stage.recipe.optimizer(stage), PowerEMA(stage, sigma_rels=GPU.sigma_rels)
    frames, height, width = stage.recipe.crop or stage.target.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    for number in range(3):
        batch = training_batch(stage, grid, stage.recipe.global_batch)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = stage.losses(batch, purpose="train").loss.mean()
        optimizer.zero_grad()
        loss.backward()
        del loss, batch
        optimizer.step()
        ema.update(stage, number + 1)
    return torch.cuda.max_memory_allocated() - before


def row(name: str, checkpointing: bool) -> dict[str, Any]:
    """The counted and the real memory of one stage."""
    overrides = [f"stage=single_gpu/{name}", f"+stage.net.checkpointing={checkpointing}"]
    cfg = compose("train", overrides=[*overrides, "logger=[]"])
    config: Any = OmegaConf.to_container(cfg.stage, resolve=True)
    dry = DryStage(config, text_tokens=16, captions=[CAPTION])
    recipe = dry.stage.recipe
    shape = recipe.crop or dry.stage.target.shape
    counted = dry.memory(Clips(recipe.global_batch, *shape, dry.stage.target.fps), GPU)
    allocated = real(config)
    return {
        "stage": name,
        "checkpointing": checkpointing,
        "counted_gib": counted.peak / 2**30,
        "allocated_gib": allocated / 2**30,
        "deviation": counted.peak / allocated - 1,
        "highest": counted.peak_at,
        "parts_gib": {part: size / 2**30 for part, size in counted.parts.items()},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default="base,tsr1,ssr1,ssr2")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("plan_memory: needs CUDA, but this machine has none")
    rows = []
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        for name in options.stages.split(","):
            for checkpointing in (False, True):
                rows.append(row(name, checkpointing))
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
