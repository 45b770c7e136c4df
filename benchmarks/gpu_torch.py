"""Training steps of the PyTorch peers on a CUDA device, for `gpu_check.py`: eager, compiled, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_conv_peers
import torch_peers
from torch import nn
from workload import LEARNING_RATE, SEED, TASKS, load_workload


def objective_of(arch: str, way: str) -> nn.Module:
    """Build a network and its loss on the device."""
    torch.manual_seed(SEED)
    if arch == "lenet-300-100":
        layer = torch_peers.HandSparseVDLinear if way == "by hand" else torch_peers.SparseVDLinear
        return torch_peers.Objective(layer).cuda()
    return torch_conv_peers.Objective(arch, sparse=True).cuda()


def make_step(arch: str, batch: int, way: str) -> Callable[[], object]:
    """Return a function that does one step: gather from resident images, forward, backward, Adam."""
    workload = load_workload(arch, floats=arch != "lenet-300-100")
    images, labels = torch.from_numpy(workload.images).cuda(), torch.from_numpy(workload.labels).cuda()
    if images.dtype == torch.uint8:
        images = images.float().div_(255)
    objective = objective_of(arch, way)
    parameters = list(objective.parameters())
    adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True, capturable=way == "graph")
    called = torch.compile(objective, dynamic=False) if way == "compile" else objective
    size = TASKS[arch].train_examples // batch * batch
    order = torch.randperm(TASKS[arch].train_examples, device="cuda")[:size].reshape(-1, batch)
    rows = torch.empty(batch, dtype=torch.int64, device="cuda")
    count = 0

    def work() -> torch.Tensor:
        x, y = images.index_select(0, rows), labels.index_select(0, rows)
        adam.zero_grad(set_to_none=True)
        loss: torch.Tensor = called(x, y)
        loss.backward()
        adam.step()
        return loss

    def take() -> None:
        nonlocal count
        rows.copy_(order[count % len(order)])
        count += 1

    def step() -> object:
        take()
        return work()

    if way != "graph":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a few steps before the capture, as PyTorch's manual asks
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replay() -> object:
        take()
        graph.replay()
        return None

    return replay
