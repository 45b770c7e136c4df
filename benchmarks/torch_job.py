"""A whole run of a recipe in PyTorch under ``torch.compile``; started by ``whole_job.py``.

The objective is that of `torch_peers.py` and `torch_conv_peers.py`, whose step is timed in the other benchmarks. Here
it follows a recipe: schedules of the learning rate and of the KL weight, shifted images, the cut at a threshold, and
the survivors' fine-tuning, whose weights are zeroed after each step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch_conv_peers
import torch_peers

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svd_numpy.data import Dataset
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.schedules import at_epoch

Variational = torch_peers.SparseVDLinear | torch_conv_peers.SparseVDConv2d


class Job(nn.Module):
    """The network, its loss with a KL weight that may change (a tensor, so that nothing is compiled anew)."""

    def __init__(self, arch: str, n_train: int) -> None:
        super().__init__()
        network: nn.Module
        if arch == "lenet-300-100":
            linear = torch_peers.SparseVDLinear
            network = nn.Sequential(
                nn.Flatten(), linear(784, 300), nn.ReLU(), linear(300, 100), nn.ReLU(), linear(100, 10)
            )
        else:
            network = torch_conv_peers.NETWORKS[arch](torch_conv_peers.SparseVDConv2d, torch_peers.SparseVDLinear, 1.0)
        self.network, self.n_train = network, n_train
        self.sparse = [layer for layer in network.modules() if isinstance(layer, Variational)]

    def forward(self, x: Tensor, labels: Tensor, kl_weight: Tensor) -> Tensor:
        loss = F.cross_entropy(self.network(x), labels)
        return loss + (kl_weight / self.n_train) * sum(layer.kl() for layer in self.sparse)


class Plain(nn.Module):
    """The same network with its mean weights alone: what is evaluated, and fine-tuned."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.network = job.network

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(x), labels)

    def logits(self, x: Tensor) -> Tensor:
        """Outputs of the means."""
        for layer in self.network:
            if isinstance(layer, torch_peers.SparseVDLinear):
                x = F.linear(x, layer.theta, layer.bias)
            elif isinstance(layer, torch_conv_peers.SparseVDConv2d):
                x = F.conv2d(x, layer.theta, layer.bias, padding=layer.padding)
            else:
                x = layer(x)
        return x


def alive(job: Job, threshold: float) -> list[Tensor]:
    """Which weights stay at a threshold on log alpha."""
    logs = [layer.log_sigma2 - torch.log(layer.theta**2 + torch_peers.THETA2_FLOOR) for layer in job.sparse]
    return [log_alpha < threshold for log_alpha in logs]


@torch.no_grad()
def measure(job: Job, images: Tensor, labels: Tensor, masks: list[Tensor]) -> dict[str, float]:
    """Error and compression of the network cut by masks."""
    before = [layer.theta.clone() for layer in job.sparse]
    for layer, mask in zip(job.sparse, masks, strict=True):
        layer.theta.mul_(mask)
    plain = Plain(job)
    parts = zip(images.split(1000), labels.split(1000), strict=True)
    wrong = sum(int((plain.logits(x).argmax(1) != y).sum()) for x, y in parts)
    for layer, theta in zip(job.sparse, before, strict=True):
        layer.theta.copy_(theta)
    kept = sum(int(mask.sum()) for mask in masks)
    return {"error": wrong / len(labels), "compression": sum(mask.numel() for mask in masks) / max(kept, 1)}


def shifted(images: Tensor, pixels: int, rng: np.random.Generator) -> Tensor:
    """Images (B, C, H, W), each moved by up to so many pixels, empty where nothing was."""
    if not pixels:
        return images
    n, channels, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    down, right = (torch.from_numpy(rng.integers(0, 2 * pixels + 1, n)) for _ in range(2))
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    of = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[of[0], of[1], rows[:, None, :, None], columns[:, None, None, :]]


def train(arch: str, data: Dataset, config: TrainConfig, threads: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Yield a record after each of the first `epochs` epochs of a recipe: seconds without evaluations, error, ...

    `seconds` holds the time to compile, as it holds the kernels' in this package's runs.
    """
    torch_peers._prepare(threads)
    assert data.image_shape is not None
    shape = (-1, *data.image_shape)
    to_float = lambda x: torch.from_numpy(np.ascontiguousarray(x)).reshape(shape).float().div_(255)  # noqa: E731
    images, test = to_float(data.x_train), to_float(data.x_test)
    labels, test_labels = (torch.from_numpy(y.astype(np.int64)) for y in (data.y_train, data.y_test))
    rng = np.random.default_rng(config.seed)
    job = Job(arch, len(images))
    steps = [torch.compile(job, dynamic=False), None]
    adam = torch.optim.Adam(job.parameters(), lr=config.lr, fused=True)
    masks: list[Tensor] = []
    seconds = 0.0
    for epoch in range(min(epochs, config.epochs + config.finetune_epochs)):
        start = time.perf_counter()
        tuning = epoch - config.epochs
        if tuning == 0:
            masks = alive(job, config.finetune_threshold)
            steps[1] = torch.compile(Plain(job), dynamic=False)
            adam = torch.optim.Adam([layer.theta for layer in job.sparse] + [layer.bias for layer in job.sparse],
                                    lr=config.finetune_lr, fused=True)  # fmt: skip
        order = torch.from_numpy(rng.permutation(len(images)))
        for at, rows in enumerate(order.split(config.batch_size)):
            now = epoch + at * config.batch_size / len(images)
            x, y = shifted(images[rows], config.shift, rng), labels[rows]
            adam.zero_grad(set_to_none=True)
            if tuning < 0:
                adam.param_groups[0]["lr"] = config.lr * at_epoch(config.lr_schedule, now)
                loss = steps[0](x, y, torch.tensor(at_epoch(config.kl_schedule, now)))
            else:
                share = (now - config.epochs) / config.finetune_epochs
                adam.param_groups[0]["lr"] = config.finetune_lr * (1 - share)
                loss = steps[1](x, y)
            loss.backward()
            adam.step()
            if tuning >= 0:
                with torch.no_grad():
                    for layer, mask in zip(job.sparse, masks, strict=True):
                        layer.theta.mul_(mask)
        seconds += time.perf_counter() - start
        cut = masks or alive(job, 3.0)
        yield {"epoch": epoch + 1, "seconds": seconds, **measure(job, test, test_labels, cut)}
