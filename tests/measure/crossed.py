"""Every shipped stage × precision × optimizer × trainer takes two real steps, shrunk, on CPUs.

    python tests/measure/crossed.py OUT [--all]        # a table; OUT/crossed.json has every result

Two processes of one thread each: first each trains its share of the recipes of one process, then
both train the recipes of two ranks together, over gloo. Without `--all` a subset is trained: every
set of parts that stages are built of meets every precision and optimizer, every network meets every
trainer, and precisions, optimizers and trainers are fully crossed. A recipe that is refused before
its first step is listed with its reason.
"""

import argparse
import itertools
import json
import logging
import os
import re
import socket
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CONF = Path(__file__).resolve().parents[2] / "conf"
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed")
#: Trainers by their number of processes; the accelerator is the CPU in all of them.
TRAINERS = {"cpu": 1, "gpu": 1, "cpu2": 2, "ddp": 2, "fsdp": 2}
DIT, HOURGLASS = "cascade.nn.dit.DiT", "cascade.nn.hourglass.Hourglass"
SHARDS, RESULTS = "shards", "crossed.json"
#: Kept callbacks; the others neither train nor save.
CALLBACKS = ("checkpoint", "probe", "ema", "start", "guard", "diagnostics")


class Recipe(NamedTuple):
    """One combination of configs."""

    stage: str
    precision: str
    optimizer: str
    trainer: str

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return TRAINERS[self.trainer]


def choices(group: str) -> list[str]:
    """The configs of a group, by name."""
    files = (CONF / group).rglob("*.yaml")
    names = (str(path.relative_to(CONF / group).with_suffix("")) for path in files)
    return sorted(name for name in names if not name.rpartition("/")[2].startswith("_"))


def every() -> list[Recipe]:
    """The full cross."""
    axes = (choices("stage"), PRECISIONS, choices("optim"), TRAINERS)
    return [Recipe(*one) for one in itertools.product(*axes)]


def parts(stage: str) -> frozenset[str]:
    """The classes of which a stage is built; two stages of the same ones run the same code."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", [f"stage={stage}"])["stage"]
    text = OmegaConf.to_yaml(cfg)
    return frozenset(re.findall(r"_target_: (\S+)", text)) | frozenset(
        re.findall("residual.*", text)
    )


def pairwise() -> list[Recipe]:
    """The subset, chosen greedily: the recipe that covers most comes next."""
    built = {stage: parts(stage) for stage in choices("stage")}
    nets = {stage: one & {DIT, HOURGLASS} for stage, one in built.items()}

    def covered(one: Recipe) -> set[tuple[Any, ...]]:
        stage, precision, optimizer, trainer = one
        return {
            (built[stage], precision),
            (built[stage], optimizer),
            (nets[stage], trainer),
            (precision, optimizer, trainer),
        }

    left, chosen = every(), list[Recipe]()
    wanted = {pair for one in left for pair in covered(one)}
    while wanted:
        best = max(left, key=lambda one: len(covered(one) & wanted))
        wanted -= covered(best)
        chosen.append(best)
    return chosen


class Bench:
    """Trains recipes in one folder, with each config composed once."""

    def __init__(self, folder: Path) -> None:
        from hydra import compose, initialize_config_dir

        self.folder = folder
        overrides = [
            *("debug=smoke", "data=smoke", "logger=[]", "data.make=null"),
            *(f"data.shards={folder / SHARDS}", f"paths.runs={folder}"),
            "trainer.enable_progress_bar=false",
        ]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            self.stages = {
                name: compose("train", [f"stage={name}", *overrides]) for name in choices("stage")
            }
            self.optimizers = {
                name: compose("train", [f"optim@stage.train.optimizer={name}"])["stage"]["train"]
                for name in choices("optim")
            }
            self.trainers = {
                name: compose("train", [f"trainer={name}", *overrides])["trainer"]
                for name in TRAINERS
            }

    def config(self, recipe: Recipe) -> Any:
        """The composed config of a recipe."""
        from omegaconf import open_dict

        cfg = self.stages[recipe.stage].copy()
        with open_dict(cfg):
            cfg.trainer = self.trainers[recipe.trainer]
            cfg.trainer.update(
                {"accelerator": "cpu", "devices": recipe.ranks, "precision": recipe.precision}
            )
            cfg.stage.train.optimizer = self.optimizers[recipe.optimizer]["optimizer"]
            cfg.callbacks = {name: cfg.callbacks[name] for name in CALLBACKS}
            cfg.name = "-".join(recipe).replace("/", "-")
        return cfg

    def train(self, recipe: Recipe) -> str:
        """`trained`, or why not."""
        from cascade import values
        from cascade.command_values import COMMANDS
        from cascade.train import train

        cfg = self.config(recipe)
        run = self.folder / cfg.name
        try:
            values.check(cfg, COMMANDS["train"])
            train(cfg, run)
        except ValueError as error:
            return f"refused: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        if not (run / "bundle" / "model.safetensors").is_file():
            return "no bundle"
        return "trained"


def worker(folder: Path, rank: int, recipes: Sequence[Recipe]) -> None:
    """Train this process's share of the recipes of one process, then all of two ranks."""
    import torch

    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bench = Bench(folder)
    mine = [one for one in recipes if one.ranks == 1][rank::2]
    found = {one: bench.train(one) for one in mine}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    found |= {one: bench.train(one) for one in recipes if one.ranks == 2}
    rows = [[*one, result] for one, result in found.items()]
    (folder / f"{rank}.json").write_text(json.dumps(rows))


def crossed(folder: Path, recipes: Sequence[Recipe], timeout_s: float) -> dict[Recipe, str]:
    """The result of each recipe, trained by two processes."""
    from data.worlds.world_shards import make_shapes

    make_shapes(folder / SHARDS, clips=8, shard_size=8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env["PYTHONPATH"] = os.pathsep.join([str(CONF.parent), env.get("PYTHONPATH", "")])
    (folder / "recipes.json").write_text(json.dumps(recipes))
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(folder), "--rank", str(rank)], env=env)
        for rank in range(2)
    ]
    try:
        for one in ranks:
            if one.wait(timeout_s):
                raise RuntimeError(f"rank {ranks.index(one)} ended with {one.returncode}")
    finally:
        for one in ranks:
            one.kill()
    found: dict[Recipe, str] = {}
    for rank in range(2):
        for *recipe, result in json.loads((folder / f"{rank}.json").read_text()):
            one = Recipe(*recipe)
            found[one] = result if found.get(one, "trained") == "trained" else found[one]
    return found


def table(found: dict[Recipe, str]) -> Iterator[str]:
    """Lines of a Markdown table: recipes (stage, optimizer, precision) × trainers."""
    yield f"| stage | optimizer | precision | {' | '.join(TRAINERS)} |"
    yield "|---" * (3 + len(TRAINERS)) + "|"
    rows: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for one, result in found.items():
        rows[one.stage, one.optimizer, one.precision][one.trainer] = result.partition(":")[0]
    for key, cells in sorted(rows.items()):
        yield f"| {' | '.join(key)} | {' | '.join(cells.get(t, '·') for t in TRAINERS)} |"
    for reason in sorted({result for result in found.values() if result != "trained"}):
        yield f"- {reason}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--rank", type=int)
    options = parser.parse_args()
    if options.rank is not None:
        listed = json.loads((options.out / "recipes.json").read_text())
        worker(options.out, options.rank, [Recipe(*one) for one in listed])
        return
    options.out.mkdir(parents=True, exist_ok=True)
    recipes = every() if options.all else pairwise()
    found = crossed(options.out, recipes, timeout_s=7200)
    text = [[*one, result] for one, result in found.items()]
    (options.out / RESULTS).write_text(json.dumps(text, indent=1))
    sys.stdout.write("\n".join(table(found)) + "\n")
    sys.stdout.write(f"{len(found)} recipes, {list(found.values()).count('trained')} trained\n")


if __name__ == "__main__":
    main()
