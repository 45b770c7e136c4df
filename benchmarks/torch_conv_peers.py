"""The same convolutional networks in PyTorch on the processor: Sparse VD eager, and the dense network.

The layers follow Molchanov, Ashukha and Vetrov (2017), section 4.2: mean and variance of each output are two
convolutions, and every output has a noise of its own. ``python benchmarks/torch_conv_peers.py`` checks the
convolution against the linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch_peers  # says what to install where PyTorch is missing

# isort: split
import torch
import torch._dynamo  # Adam would import it: what it takes is no memory of a step
import torch.nn.functional as F
from torch import Tensor, nn
from torch_peers import VAR_FLOOR, SparseVDLinear, log_uniform_kl
from workload import INITIAL_LOG_SIGMA2, KL_WEIGHT, SEED, TASKS, Step, Workload

VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # filters, a pooling after each
BATCH_NORM_EPS = 1e-3

# Sparse VD eager, one thread, torch 2.13: on lenet-5 (batch 100) torch.channels_last takes the same time to 4 %, on
# vgg-like (batch 32) a few steps took 1.3 times as long. `build_channels_last` is there to see it anew.
MEMORY_FORMAT = torch.contiguous_format


class SparseVDConv2d(nn.Module):
    """A convolution with Gaussian weights, sampled by the local reparameterisation trick."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, padding: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.padding = padding
        self.theta = nn.Parameter(torch.empty(outputs, inputs, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.theta)
        self.log_sigma2 = nn.Parameter(torch.full_like(self.theta, INITIAL_LOG_SIGMA2))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, outputs, H', W')
        mean = F.conv2d(x, self.theta, self.bias, padding=self.padding)
        var = F.conv2d(x * x, self.log_sigma2.exp(), padding=self.padding)
        return torch.addcmul(mean, (var + VAR_FLOOR).sqrt(), torch.randn_like(mean))

    def kl(self) -> Tensor:
        return log_uniform_kl(self.theta, self.log_sigma2)


Layer = Callable[..., nn.Module]


def lenet_5(conv: Layer, linear: Layer, width: float) -> nn.Sequential:
    """LeNet-5 as in Caffe, of which only the whole width is asked for."""
    assert width == 1
    return nn.Sequential(
        *(conv(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), linear(800, 500), nn.ReLU(), linear(500, 10)),
    )


def vgg_like(conv: Layer, linear: Layer, width: float) -> nn.Sequential:
    """VGG-like: 13 convolutions of 3 x 3 and a linear layer, each normalised and rectified, then the classes.

    What is normalised has no bias, here and in the package.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for whole in VGG_STAGES:
        stage = [round(width * filters) for filters in whole]
        for n_in, n_out in pairwise((inputs, *stage)):
            layers += [conv(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out, BATCH_NORM_EPS), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        inputs = stage[-1]
    hidden = round(width * 512)
    layers += [nn.Flatten(), linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden, BATCH_NORM_EPS)]
    layers += [nn.ReLU(), linear(hidden, 10)]
    return nn.Sequential(*layers)


NETWORKS = {"lenet-5": lenet_5, "vgg-like": vgg_like}


class Objective(nn.Module):
    """A network and its loss, one callable; images come as rows (H, W, C), so that channels_last is a view."""

    def __init__(self, arch: str, sparse: bool, memory_format: torch.memory_format = MEMORY_FORMAT) -> None:
        super().__init__()
        channels, height, width = TASKS[arch].image_shape
        self.shape = height, width, channels
        self.train_examples = TASKS[arch].train_examples
        self.memory_format = memory_format
        layers: tuple[Layer, Layer] = (SparseVDConv2d, SparseVDLinear) if sparse else (nn.Conv2d, nn.Linear)
        task = TASKS[arch]
        self.network = NETWORKS[task.network or arch](*layers, task.width).to(memory_format=self.memory_format)  # type: ignore[call-overload, unused-ignore]
        self.sparse = [layer for layer in self.network if isinstance(layer, SparseVDConv2d | SparseVDLinear)]

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        x = rows.view(-1, *self.shape).permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)
        loss = F.cross_entropy(self.network(x), labels)
        if self.sparse:
            loss = loss + (KL_WEIGHT / self.train_examples) * sum(layer.kl() for layer in self.sparse)
        return loss


def build_eager(workload: Workload, batch: int, threads: int) -> Step:
    """Sparse VD as PyTorch is usually written: modules and autograd."""
    return torch_peers.eager_step(lambda: Objective(workload.arch, sparse=True), workload, batch, threads)


def build_channels_last(workload: Workload, batch: int, threads: int) -> Step:
    """The same in the other memory format."""

    def make() -> Objective:
        return Objective(workload.arch, sparse=True, memory_format=torch.channels_last)

    return torch_peers.eager_step(make, workload, batch, threads)


def build_compiled(workload: Workload, batch: int, threads: int) -> Step:
    """Sparse VD by autograd under ``torch.compile``."""
    return torch_peers.compiled_step(lambda: Objective(workload.arch, sparse=True), workload, batch, threads)


def build_dense(workload: Workload, batch: int, threads: int) -> Step:
    """The deterministic network of the same layers, eager."""
    return torch_peers.eager_step(lambda: Objective(workload.arch, sparse=False), workload, batch, threads)


def check_peers() -> None:
    """Assert that a convolution whose kernel is as large as its image is the linear layer: output, gradients, KL."""
    images, direction = torch.rand(7, 2, 5, 5), torch.randn(7, 3)
    results = []
    for layer in (SparseVDConv2d(2, 3, 5), SparseVDLinear(50, 3)):
        torch.manual_seed(SEED)
        with torch.no_grad():
            layer.theta.copy_(torch.randn(150).view_as(layer.theta))
            layer.log_sigma2.copy_(torch.empty(150).uniform_(-4, 0).view_as(layer.theta))
        x = images if isinstance(layer, SparseVDConv2d) else images.flatten(1)
        y = layer(x).flatten(1)
        gradients = torch.autograd.grad((y * direction).sum() + layer.kl(), [*layer.parameters()])
        results.append([y, layer.kl(), *(gradient.flatten(1) for gradient in gradients[:2]), gradients[2]])
    for of_conv, of_linear in zip(*results, strict=True):
        torch.testing.assert_close(of_conv, of_linear, rtol=1e-4, atol=1e-4)
    print("torch convolution: output, gradients and KL agree with the linear layer's")


if __name__ == "__main__":
    check_peers()
