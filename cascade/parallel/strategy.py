"""FSDP2 under Lightning: weights, gradients, optimizer state and averages sharded over all ranks.

A network's weights are gathered for each pass, block by block. So every rank must take part in
every forward pass, whether for training, validation, sampling or the probe.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.strategies.model_parallel import _setup_device_mesh
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import Shard, zeros
from torch.optim import Optimizer

from cascade.parallel import checkpoint as parts
from cascade.parallel.sharding import shard, sharded_modules
from cascade.parallel.shards import like


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism over all processes of all nodes, on GPUs or CPUs.

    Checkpoints are folders from which any number of ranks can resume, and a single process without
    FSDP2 too. `sum_each_batch` reduces gradients over ranks after every accumulated batch instead
    of after the last: more communication, but no rank ever stores full gradients.
    """

    def __init__(self, *, sum_each_batch: bool = False, **options: Any) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, **options)
        self.sum_each_batch = sum_each_batch

    def setup_environment(self) -> None:
        """Start the process group with one mesh of all ranks; may be called before `fit`.

        Lightning's own method would shard within a node only, and needs the module first.
        """
        if self._device_mesh is None:
            self._setup_distributed()
            self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1
            self._device_mesh = _setup_device_mesh(
                self.world_size, 1, self.world_size, self.root_device
            )

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the weights that the stage initialised, then let Lightning set up the rest."""
        assert self.lightning_module is not None
        half = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        shard(self.lightning_module, self.device_mesh["data_parallel"], half=half)
        super().setup(trainer)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Inside, gradients accumulate on each rank; they are reduced after the last batch."""
        assert self.model is not None
        modules = [] if self.sum_each_batch else sharded_modules(self.model)
        for module in modules:
            module.set_requires_gradient_sync(False, recurse=False)
        yield
        for module in modules:
            module.set_requires_gradient_sync(True, recurse=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights; each rank has its own shards."""
        assert self.model is not None
        return self.model.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's own state, by parameter number; each rank has its own shards."""
        inner = getattr(optimizer, "_optimizer", optimizer)
        state: dict[str, Any] = inner.state_dict()
        return state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a folder, all ranks together.

        Raises:
            OSError: on every rank, if any rank could not write.
        """
        assert storage_options is None
        path = Path(self.broadcast(str(filepath)))
        if self.is_global_zero:
            path.mkdir(parents=True, exist_ok=True)
        self.barrier()
        parts.save(checkpoint, path, lead=self.is_global_zero)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Let Lightning pass the optimizer states, as to any strategy."""
        return True

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a sharded folder or another strategy's single file, never an unrestricted pickle."""
        del weights_only
        path = Path(self.broadcast(str(checkpoint_path)))
        if parts.is_sharded(path):
            return parts.load(path, self._place)
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return self._sharded(loaded)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy the weights; each rank copies its own shards."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Copy the optimizers' states; each rank copies its own shards."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    def _place(self, size: torch.Size, dtype: torch.dtype) -> Tensor:
        return zeros(
            size, dtype=dtype, device_mesh=self.device_mesh["data_parallel"], placements=[Shard(0)]
        )

    def _sharded(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint of full tensors, sharded as by this strategy."""
        assert self.model is not None
        own = self.model.state_dict()
        weights = {
            name: like(value, own[name]) if name in own else value
            for name, value in loaded["state_dict"].items()
        }
        states = []
        for optimizer, saved in zip(self.optimizers, loaded["optimizer_states"], strict=True):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                i: {
                    key: like(value, params[i])
                    if isinstance(value, Tensor) and value.shape == params[i].shape
                    else value
                    for key, value in values.items()
                }
                for i, values in saved["state"].items()
            }
            states.append({**saved, "state": state})
        return {**loaded, "state_dict": weights, "optimizer_states": states}
