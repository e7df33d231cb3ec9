"""Laws that need several ranks; run by test_ranks.py as `torchrun laws.py OUT`, not collected.

Every rank runs every law; OUT/<rank>.json has the result of each.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils.data import DataLoader

from cascade.ema import PowerEMA
from cascade.optim import adamw, muon_adamw
from cascade.orthogonal import orthogonalize
from cascade.parallel import checkpoint
from cascade.parallel.metadata import DamagedError
from cascade.parallel.muon import map_full_matrices
from cascade.parallel.sharding import shard
from cascade.parallel.shards import gathered, local, rows_of, sharded
from cascade.parallel.strategy import FSDP2

LAWS = []


def law(function):
    LAWS.append(function)
    return function


class Net(nn.Module):
    """Odd numbers of rows, convolution kernels, and a vector with fewer elements than ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 7)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(7, 7, 3, padding=1), nn.GELU()) for _ in range(3)
        )
        self.out = nn.Linear(7, 1)

    def forward(self, x):
        y = self.embed(x)[..., None, None].expand(-1, -1, 4, 4)
        for block in self.blocks:
            y = y + block(y)
        return self.out(y.mean((2, 3)))


class Holder(pl.LightningModule):
    def __init__(self, make=muon_adamw) -> None:
        super().__init__()
        self.make = make
        self.net = None

    def configure_model(self) -> None:
        if self.net is None:
            torch.manual_seed(0)
            self.net = Net()

    def loss(self, x):
        return (self.net(x) - x.abs().mean(1, keepdim=True)).square().mean()

    def training_step(self, x, _):
        return self.loss(x)

    def configure_optimizers(self):
        return self.make(self)


def holder(mesh: DeviceMesh | None, make=muon_adamw) -> Holder:
    module = Holder(make)
    module.configure_model()
    if mesh is not None:
        shard(module, mesh)
    return module


def batch(step: int, rank: int | None, world: int):
    x = torch.randn(4 * world, 4, generator=torch.Generator().manual_seed(step))
    return x if rank is None else x[4 * rank : 4 * rank + 4]


def trained(module: Holder, steps: int, rank: int | None, world: int):
    optimizer, ema = module.configure_optimizers(), PowerEMA(module, (0.05, 0.1))
    for step in range(steps):
        optimizer.zero_grad()
        module.loss(batch(step, rank, world)).backward()
        optimizer.step()
        ema.update(module, step + 1)
    return optimizer, ema


@law
def full_matrices_give_the_same_result_as_each_alone(mesh: DeviceMesh, folder: Path) -> None:
    torch.manual_seed(0)
    shapes = [(7, 5), (4, 9), (7, 5), (1, 6), (12, 3), (7, 5), (2, 2)]
    matrices = [torch.randn(shape) for shape in shapes]
    rank, world = mesh.get_local_rank(), mesh.size()
    mine = [
        m[rows_of(len(m), world)[rank].start :][: len(rows_of(len(m), world)[rank])]
        for m in matrices
    ]
    out = map_full_matrices(orthogonalize, mine, [len(m) for m in matrices], mesh.get_group())
    for m, part in zip(matrices, out, strict=True):
        span = rows_of(len(m), world)[rank]
        expected = orthogonalize(m.unsqueeze(0))[0][span.start : span.stop]
        torch.testing.assert_close(part, expected)


@law
def optimizers_and_averages_of_shards_are_shards_of_the_full_ones(
    mesh: DeviceMesh, folder: Path
) -> None:
    for make in (muon_adamw, lambda m: adamw(m, lr=1e-2, weight_decay=0.1)):
        parts, alone = holder(mesh, make), holder(None, make)
        _, averages = trained(parts, 5, mesh.get_local_rank(), mesh.size())
        _, expected = trained(alone, 5, None, mesh.size())
        own = dict(alone.named_parameters())
        for name, p in parts.named_parameters():
            assert isinstance(p, DTensor), name
            torch.testing.assert_close(
                gathered(p.detach()), own[name].detach(), rtol=1e-4, atol=2e-6
            )
        with averages.swapped(parts, 0.05), expected.swapped(alone, 0.05):
            for name, p in parts.named_parameters():
                torch.testing.assert_close(
                    gathered(p.detach()), own[name].detach(), rtol=1e-4, atol=2e-6
                )


@law
def a_sharded_checkpoint_loads_sharded_and_full(mesh: DeviceMesh, folder: Path) -> None:
    module = holder(mesh)
    optimizer, ema = trained(module, 3, mesh.get_local_rank(), mesh.size())
    tree = {
        "state_dict": module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"EMA": ema.state_dict()},
        "step": 3,
    }
    path = folder / "saved"
    checkpoint.save(tree, path, lead=dist.get_rank() == 0)
    dist.barrier()
    again = checkpoint.load(path, lambda size, dtype: sharded(torch.zeros(size, dtype=dtype), mesh))
    assert again["step"] == 3
    flat, other = checkpoint.split(tree)[1], checkpoint.split(again)[1]
    assert flat.keys() == other.keys()
    assert all(torch.equal(local(flat[name]), local(other[name])) for name in flat)
    full = checkpoint.load_whole(path)
    for name, value in module.state_dict().items():
        assert torch.equal(full["state_dict"][name], gathered(value))
    assert len(flat) == len(module.state_dict()) * 3 + sum(
        isinstance(v, DTensor) for s in optimizer.state.values() for v in s.values()
    )


@law
def a_rank_that_cannot_write_raises_on_all_ranks(mesh: DeviceMesh, folder: Path) -> None:
    tree = {"w": sharded(torch.zeros(8, 2), mesh)}
    path = folder / "full"
    if mesh.get_local_rank() == 0:
        path.mkdir()
        (path / "__1_0.distcp").mkdir()  # where the second rank would write its file
    dist.barrier()
    with pytest.raises(OSError, match="rank 1"):
        checkpoint.save(tree, path, lead=mesh.get_local_rank() == 0)


@law
def a_lost_shard_raises_on_all_ranks(mesh: DeviceMesh, folder: Path) -> None:
    path = folder / "lost"
    checkpoint.save({"w": sharded(torch.zeros(8, 2), mesh)}, path, lead=dist.get_rank() == 0)
    dist.barrier()
    if mesh.get_local_rank() == 0:
        (path / "__1_0.distcp").unlink()
    dist.barrier()
    with pytest.raises((DamagedError, OSError), match="__1_0.distcp"):
        checkpoint.load(path, lambda size, dtype: sharded(torch.zeros(size, dtype=dtype), mesh))


@law
def a_run_resumes_bit_exactly_from_shards_and_from_one_file(mesh: DeviceMesh, folder: Path) -> None:
    through, first = fitted(FSDP2(), folder), fitted(FSDP2(), folder, steps=1, save="parts")
    again = fitted(FSDP2(), folder, resume="parts")
    for one, other in zip(through.parameters(), again.parameters(), strict=True):
        assert torch.equal(local(one), local(other))
    full = checkpoint.load_whole(folder / "parts")
    if mesh.get_local_rank() == 0:
        torch.save(full, folder / "file")
    dist.barrier()
    from_file = fitted(FSDP2(), folder, resume="file")
    for one, other in zip(through.parameters(), from_file.parameters(), strict=True):
        assert torch.equal(local(one), local(other))
    assert not torch.equal(local(next(first.parameters())), local(next(through.parameters())))


class Counted(pl.Callback):
    """The collectives of each batch of training."""

    def __init__(self) -> None:
        self.counts: list[dict[str, int]] = []

    def on_train_batch_start(self, *_) -> None:
        self.mode = CommDebugMode()
        self.mode.__enter__()

    def on_train_batch_end(self, *_) -> None:
        self.mode.__exit__(None, None, None)
        self.counts.append(
            {str(k).rpartition(".")[2]: v for k, v in self.mode.get_comm_counts().items()}
        )


def fitted(
    strategy: FSDP2,
    folder: Path,
    *callbacks: pl.Callback,
    steps: int = 2,
    accumulate: int = 1,
    save: str | None = None,
    resume: str | None = None,
) -> Holder:
    module = Holder()
    world = int(os.environ["WORLD_SIZE"])
    same = batch(0, int(os.environ["RANK"]), world)  # Lightning would begin its loader anew
    data = DataLoader([same] * 8, batch_size=None)
    trainer = pl.Trainer(
        **{"accelerator": "cpu", "devices": int(os.environ["LOCAL_WORLD_SIZE"])},
        **{"max_steps": steps, "accumulate_grad_batches": accumulate, "gradient_clip_val": 0.1},
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
        **{"enable_model_summary": False, "default_root_dir": folder, "strategy": strategy},
        callbacks=list(callbacks),
    )
    path = None if resume is None else folder / resume
    trainer.fit(module, data, ckpt_path=path, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(folder / save)
    return module


@law
def accumulated_batches_are_summed_over_ranks_once(mesh: DeviceMesh, folder: Path) -> None:
    last, each = Counted(), Counted()
    one = fitted(FSDP2(), folder, last, accumulate=4)
    other = fitted(FSDP2(sum_each_batch=True), folder, each, accumulate=4)
    groups = 4  # three blocks, and the rest of the network
    sums = [{k: v for k, v in c.items() if "reduce_scatter" in k} for c in last.counts]
    assert [sum(c.values()) for c in sums] == [0, 0, 0, groups] * 2, last.counts
    sums = [{k: v for k, v in c.items() if "reduce_scatter" in k} for c in each.counts]
    assert [sum(c.values()) for c in sums] == [groups] * 8, each.counts
    more = last.counts[3].keys() - {"_allgather_base_", "_reduce_scatter_base_"}
    # One sum to clip by, and for Muon two exchanges.
    assert {k: last.counts[3][k] for k in more} == {"all_reduce": 1, "alltoall_base_": 2}
    (folder / "counts.json").write_text(json.dumps(last.counts))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(local(a.detach()), local(b.detach()), rtol=1e-4, atol=1e-6)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data_parallel",))
    results = {}
    for one in LAWS:
        try:
            one(mesh, folder)
            results[one.__name__] = "holds"
        except Exception:
            results[one.__name__] = traceback.format_exc()
        dist.barrier()
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
