"""Data-parallel training under ``torchrun``; a process started any other way is a world of one.

Gradients are summed over the processes after the backward pass instead of by hooks of DistributedDataParallel: tasks
call whatever parts of a network they need, not only its ``forward``, and the sum does not depend on bucket order.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def rank() -> int:
    """Return the index of this process, 0 for the one that writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started; yield the device of this one.

    Without torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR), or when a group exists already, nothing is set up.
    """
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() and int(os.environ["WORLD_SIZE"]) > 1
    if device.type == "cuda" and launched:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if not launched or dist.is_initialized():
        yield device
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Long enough for the other processes to wait out an evaluation or a slow checkpoint of the first one.
    dist.init_process_group(backend, timeout=timedelta(hours=2))
    try:
        yield device
    finally:
        dist.destroy_process_group()


def broadcast_object(value: Any) -> Any:
    """Return rank 0's value on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_module(module: torch.nn.Module) -> None:
    """Make parameters and buffers of every process those of rank 0."""
    if world_size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.data, src=0)


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Make the buffers (batch statistics) of every process those of rank 0."""
    if world_size() > 1:
        for tensor in module.buffers():
            dist.broadcast(tensor, src=0)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes.

    A parameter that got no gradient anywhere keeps none (the optimiser then leaves it alone, weight decay included).
    """
    if world_size() == 1:
        return
    parameters = list(parameters)
    device = parameters[0].device
    touched = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=device)
    dist.all_reduce(touched, op=dist.ReduceOp.MAX)
    chosen = [p for p, t in zip(parameters, touched.tolist(), strict=True) if t]
    for dtype in sorted({p.dtype for p in chosen}, key=str):
        group = [p for p in chosen if p.dtype == dtype]
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in group]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        for p, run in zip(group, flat.split([p.numel() for p in group]), strict=True):
            p.grad = run.view(p.shape).clone()


def sum_tensor(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over the processes."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value
