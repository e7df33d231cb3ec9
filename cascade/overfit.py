"""Overfit one clip, which must be reproduced: `python -m cascade.overfit stage=… debug=overfit`.

The clip passes every part: shard, index, plan, loader, training step, averaged weights, bundle and
sampler. The command fails if the PSNR is below a limit.
"""

import io
import logging
import sys
import tarfile
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from cascade.bundle import load_stage
from cascade.callbacks.samples import sample_like
from cascade.callbacks.verdict import NotLearningError
from cascade.entry import check_choices, command
from cascade.eval.fidelity import psnr
from cascade.files.atomic import replacing
from cascade.shrink import resolved
from cascade.stage import TrainableStage
from cascade.train import train
from cascade.video import to_float, write_mp4

log = logging.getLogger(__name__)


def one_clip_shard(clip: Path, run: Path) -> Path:
    """A shard with one video file and its caption.

    Raises:
        ValueError: the file or its caption is missing.
    """
    caption = clip.with_suffix(".txt")
    for path in (clip, caption):
        if not path.is_file():
            raise ValueError(
                f"overfit: {path} is missing; a clip needs its caption in {caption.name} beside it"
            )
    shard = run / "shard" / "00000.tar"
    with replacing(shard) as part, tarfile.open(part, "w") as tar:
        for path in (clip, caption):
            content = path.read_bytes()
            info = tarfile.TarInfo(f"{clip.stem.replace('.', '_')}{path.suffix}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return shard


def judge(run: Path, batch: dict[str, Any], cfg: DictConfig) -> dict[str, float]:
    """PSNR of the reproduced clip, of plain interpolation (not for a base), and the limit."""
    stage = cast(TrainableStage, load_stage(run / "bundle"))
    x = to_float(batch["video"])
    made = sample_like(stage, batch)
    write_mp4(run / "clip.mp4", x[0], fps=stage.target.fps)
    write_mp4(run / "back.mp4", made[0], fps=stage.target.fps)
    low = stage.kind.reduce(x)
    if low is None:
        figures = {"psnr": float(psnr(made, x)), "required": cfg.min_psnr}
    else:
        new_frames = stage.kind.new_frames
        plain = float(psnr(new_frames(stage.kind.baseline(low)), new_frames(x)))
        figures = {"psnr": float(psnr(new_frames(made), new_frames(x))), "interpolation": plain}
        figures["required"] = max(cfg.min_psnr, plain + cfg.min_gain)
    return figures


@command("train")
def main(cfg: DictConfig) -> None:
    """The command line."""
    run = Path(HydraConfig.get().runtime.output_dir)
    if "clip" not in cfg:
        raise ValueError("overfit: the config has no key `clip`; add debug=overfit")
    if cfg.clip is not None:
        with open_dict(cfg):
            cfg.data = OmegaConf.merge(
                cfg.data, {"shards": str(one_clip_shard(Path(cfg.clip), run)), "make": None}
            )
    train(cfg, run)
    data = hydra.utils.instantiate(resolved(cfg)["data"], _convert_="all")
    data.prepare_data()
    data.setup("fit")
    figures = judge(run, next(iter(data.val_loader(size=1))), cfg)
    table = Table(title=f"{cfg.stage.name}: {cfg.clip or 'a clip of the data'}")
    for name in figures:
        table.add_column(f"{name} (dB)")
    table.add_row(*(f"{value:.2f}" for value in figures.values()))
    Console().print(table)
    if figures["psnr"] < figures["required"]:
        raise NotLearningError(
            f"{cfg.stage.name}: the clip was reproduced at {figures['psnr']:.2f} dB, but "
            f"{figures['required']:.2f} dB are required; compare {run}/back.mp4 with clip.mp4, or "
            f"train longer with ARGS='stage.train.steps=…'"
        )


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
