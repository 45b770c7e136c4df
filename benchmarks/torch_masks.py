"""The dense networks in PyTorch with masks on their weights, as its pruning does: a step costs a dense one."""

from __future__ import annotations

import torch_peers  # says what to install where PyTorch is missing

# isort: split
import torch
import torch_conv_peers
from torch import nn
from torch.nn.utils import prune
from workload import Step, Workload

SHARE = 0.05  # of the weights left; of no consequence for the time


def build_masked(workload: Workload, batch: int, threads: int) -> Step:
    """The deterministic network, its weights multiplied by masks at every step."""

    def make() -> nn.Module:
        dense = workload.arch == "lenet-300-100"
        network = torch_peers.Objective(nn.Linear) if dense else torch_conv_peers.Objective(workload.arch, False)
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                prune.custom_from_mask(layer, "weight", torch.rand_like(layer.weight) < SHARE)
        return network

    return torch_peers.eager_step(make, workload, batch, threads)
