"""Several processes that train one model: who this one is, sharded parameters, and whole tensors out of shards.

Without a process group everything here is the plain case of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

PATIENCE = timedelta(hours=2)
"""How long processes wait for one, which may be tokenising for all."""


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that `torchrun` started, for the time of the block. Yields this process's own device.

    CPU processes talk by gloo, CUDA processes by NCCL, each on the GPU of its number on its machine.
    """
    if not dist.is_torchelastic_launched() or dist.is_initialized():
        yield device
        return
    if torch.device(device).type == "cuda":
        device = f"cuda:{dist.get_node_local_rank()}"  # pyright: ignore[reportPrivateImportUsage]
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=torch.device(device), timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, device: torch.device) -> None:
    """Spread the parameters of `model` over all processes, in place (FSDP2). One process: nothing happens.

    The model is one unit: its parameters are gathered when its forward begins, and its gradients and the optimizer's
    state stay spread. Units of single blocks are not safe here: how often a model of nestmem calls a block depends on the
    documents in its rows, which differ between processes, and inner learning reads parameters outside their block.
    """
    if world() > 1:
        fully_shard(model, mesh=init_device_mesh(device.type, (world(),)))


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on the CPU. Every process must call it for the same tensor."""
    tensor = tensor.detach()
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.cpu()


def spread(full: Tensor, like: Tensor) -> Tensor:
    """A full tensor as `like` is laid out: on its device, and sharded where it is."""
    if isinstance(like, DTensor):
        local = full.to(device=like.device, dtype=like.dtype)
        return distribute_tensor(local, like.device_mesh, like.placements)
    return full.to(device=like.device, dtype=like.dtype)


def summed(values: list[float], device: torch.device) -> list[float]:
    """Each number summed over all processes."""
    if world() == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()
