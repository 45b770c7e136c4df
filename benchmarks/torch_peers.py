"""The same training step in PyTorch, written as fast as we know how (version 2.13.0, CPU).

Every peer gathers its batch from a resident float32 tensor, evaluates ``mean NLL + kl_weight * KL / N``
and takes one fused Adam step. The local reparameterisation and the KL term are those of Molchanov,
Ashukha and Vetrov (2017), sections 4.2 and 4.3, with the additive parametrisation (theta, log_sigma2).
``python benchmarks/torch_peers.py`` checks the derivatives and the KL.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

try:
    import torch
except ImportError as error:
    raise ImportError('PyTorch is not installed; install it with: pip install "torch==2.13.0"') from error
import torch.nn.functional as F
from torch import Tensor, nn
from workload import (
    INITIAL_LOG_SIGMA2,
    KL_WEIGHT,
    LAYERS,
    LEARNING_RATE,
    SEED,
    TRAIN_EXAMPLES,
    Step,
    Workload,
    batch_indices,
)

K1, K2, K3 = 0.63576, 1.87320, 1.48695
VAR_FLOOR = 1e-8  # keeps the derivative of sqrt finite when a whole input row is zero
THETA2_FLOOR = 1e-16  # keeps log(theta^2) and its derivative finite at theta = 0


def log_uniform_kl(theta: Tensor, log_sigma2: Tensor) -> Tensor:
    """Return the KL to the log-uniform prior, summed (the paper's equation 14, with the sign of a KL).

    The sums are taken apart: then the backward pass starts from broadcast scalars and not from one more
    tensor of the size of the weights.
    """
    log_alpha = log_sigma2 - (theta * theta + THETA2_FLOOR).log()
    half_softplus = 0.5 * F.softplus(-log_alpha).sum()
    return half_softplus - K1 * torch.sigmoid(K2 + K3 * log_alpha).sum() + K1 * log_alpha.numel()


class SparseVDLinear(nn.Module):
    """A linear layer with Gaussian weights, sampled by the local reparameterisation trick."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_normal_(self.theta)
        self.log_sigma2 = nn.Parameter(torch.full((outputs, inputs), INITIAL_LOG_SIGMA2))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs) -> (B, outputs)
        mean = F.linear(x, self.theta, self.bias)
        var = F.linear(x * x, self.log_sigma2.exp())
        return torch.addcmul(mean, (var + VAR_FLOOR).sqrt(), torch.randn_like(mean))

    def kl(self) -> Tensor:
        return log_uniform_kl(self.theta, self.log_sigma2)


class LrtFunction(torch.autograd.Function):
    """The sampled linear layer with its derivative by hand: fewer passes and temporaries than autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, log_sigma2: Tensor, bias: Tensor) -> Tensor:
        x2, sigma2 = x * x, log_sigma2.exp()
        std = torch.mm(x2, sigma2.t()).add_(VAR_FLOOR).sqrt_()
        y = torch.addmm(bias, x, theta.t())
        noise = torch.randn_like(y)
        y.addcmul_(std, noise)
        ctx.save_for_backward(x, x2, theta, sigma2, noise.div_(std))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        (dy,) = grads
        x, x2, theta, sigma2, noise_over_std = ctx.saved_tensors
        d_var = noise_over_std.mul_(dy).mul_(0.5)
        d_theta = torch.mm(dy.t(), x)
        d_log_sigma2 = torch.mm(d_var.t(), x2).mul_(sigma2)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(dy, theta).addcmul_(torch.mm(d_var, sigma2), x, value=2)
        return dx, d_theta, d_log_sigma2, dy.sum(0)


class KlFunction(torch.autograd.Function):
    """``log_uniform_kl`` with its derivative by hand, made while the forward pass has the values at hand."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, log_sigma2: Tensor) -> Tensor:
        theta2 = (theta * theta).add_(THETA2_FLOOR)
        log_alpha = torch.log(theta2).neg_().add_(log_sigma2)
        gate = torch.sigmoid(log_alpha * K3 + K2)
        kl = 0.5 * F.softplus(-log_alpha).sum() - K1 * gate.sum() + K1 * theta.numel()
        d_log_alpha = log_alpha.neg_().sigmoid_().mul_(-0.5)
        d_log_alpha.addcmul_(gate, 1 - gate, value=-K1 * K3)
        ctx.save_for_backward(theta, theta2, d_log_alpha)
        return kl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        theta, theta2, d_log_alpha = ctx.saved_tensors
        d_log_sigma2 = d_log_alpha.mul_(grads[0])
        return torch.mul(d_log_sigma2, theta).div_(theta2).mul_(-2), d_log_sigma2


class HandSparseVDLinear(SparseVDLinear):
    """``SparseVDLinear`` on the two hand-written functions."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = LrtFunction.apply(x, self.theta, self.log_sigma2, self.bias)
        return y

    def kl(self) -> Tensor:
        kl: Tensor = KlFunction.apply(self.theta, self.log_sigma2)
        return kl


class Objective(nn.Module):
    """The network and its loss, one callable: what ``torch.compile`` sees whole."""

    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(*sizes) for sizes in pairwise(LAYERS))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        loss = F.cross_entropy(last(x), labels)
        if isinstance(last, SparseVDLinear):
            loss = loss + (KL_WEIGHT / TRAIN_EXAMPLES) * sum(layer.kl() for layer in self.layers)
        return loss


def _training_step(objective: nn.Module, parameters: list[nn.Parameter], workload: Workload, batch: int) -> Step:
    images = torch.from_numpy(workload.images)
    if images.dtype == torch.uint8:
        images = images.float().div_(255)
    labels = torch.from_numpy(workload.labels)
    adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    indices = map(torch.from_numpy, batch_indices(batch, len(images)))
    x = torch.empty(batch, images.shape[1])
    y = torch.empty(batch, dtype=torch.int64)

    def step() -> Tensor:
        rows = next(indices)
        torch.index_select(images, 0, rows, out=x)
        torch.index_select(labels, 0, rows, out=y)
        adam.zero_grad(set_to_none=True)
        loss: Tensor = objective(x, y)
        loss.backward()
        adam.step()
        return loss.detach()

    return step


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    torch.set_flush_denormal(True)  # Adam moments of dead weights decay into slow subnormals


def eager_step(make: Callable[[], nn.Module], workload: Workload, batch: int, threads: int) -> Step:
    """Return the step that trains the objective of ``make``: a module that takes rows of images and their labels."""
    _prepare(threads)
    objective = make()
    return _training_step(objective, list(objective.parameters()), workload, batch)


def compiled_step(make: Callable[[], nn.Module], workload: Workload, batch: int, threads: int) -> Step:
    """Return the same step with the objective whole under ``torch.compile``."""
    import torch._inductor.config as inductor

    _prepare(threads)
    inductor.fallback_random = True  # ATen's generator; the compiler's own showed no clear gain
    objective = make()
    compiled = torch.compile(objective, dynamic=False)
    return _training_step(compiled, list(objective.parameters()), workload, batch)


def build_eager(workload: Workload, batch: int, threads: int) -> Step:
    """Sparse VD as PyTorch is usually written: modules and autograd."""
    return eager_step(lambda: Objective(SparseVDLinear), workload, batch, threads)


def build_by_hand(workload: Workload, batch: int, threads: int) -> Step:
    """Sparse VD, eager, with hand-written derivatives of the layer and of the KL."""
    return eager_step(lambda: Objective(HandSparseVDLinear), workload, batch, threads)


def build_compiled(workload: Workload, batch: int, threads: int) -> Step:
    """Sparse VD by autograd under ``torch.compile``."""
    return compiled_step(lambda: Objective(SparseVDLinear), workload, batch, threads)


def build_compiled_by_hand(workload: Workload, batch: int, threads: int) -> Step:
    """Sparse VD with the hand-written derivatives under ``torch.compile``."""
    return compiled_step(lambda: Objective(HandSparseVDLinear), workload, batch, threads)


def build_dense(workload: Workload, batch: int, threads: int) -> Step:
    """The deterministic network of the same sizes, eager."""
    return eager_step(lambda: Objective(nn.Linear), workload, batch, threads)


def check_peers() -> None:
    """Assert the KL against exact values, and the hand-written derivatives against autograd in float64."""
    exact = {-8: 4.635014, -4: 2.625755, -2: 1.544155, 0: 0.426686, 2: 0.066168, 4: 0.009130, 8: 0.000168}
    one = torch.ones(1, dtype=torch.float64)
    for log_alpha, value in exact.items():  # the fit's largest error is 0.0094 nat
        for kl in (log_uniform_kl, KlFunction.apply):
            assert abs(kl(one, one * log_alpha).item() - value) < 0.0095, (log_alpha, value)

    torch.manual_seed(SEED)
    inputs = torch.rand(7, 5, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(7, 3, dtype=torch.float64)
    gradients = []
    for layer_type in (SparseVDLinear, HandSparseVDLinear):
        torch.manual_seed(SEED)
        layer = layer_type(5, 3).double()
        with torch.no_grad():
            layer.log_sigma2.uniform_(-4, 0)
        loss = (layer(inputs) * direction).sum() + layer.kl()
        gradients.append(torch.autograd.grad(loss, [inputs, *layer.parameters()]))
    for by_autograd, by_hand in zip(*gradients, strict=True):
        torch.testing.assert_close(by_hand, by_autograd, rtol=1e-6, atol=1e-6)
    print("torch peers: KL values and hand-written derivatives agree")


if __name__ == "__main__":
    check_peers()
