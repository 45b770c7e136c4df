"""Soft weight-sharing (Nowlan & Hinton 1992; Ullrich, Meeds, Welling 2017): weights gather around a few values.

The prior of the weights is a mixture of Gaussians that is learned with them. One component is fixed at 0 and has almost
all of the mass. In the end each weight takes the mean of the component that it most likely came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from svd_numpy.checks import check_count, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.host import HostMemory
from svd_numpy.network.model import Sequential
from svd_numpy.train.pruning import Place, Pruner, Pruning

ZERO_SHARE = 0.99  # weight of the component at 0
SPREAD, START_STD = 0.6, 0.25  # of the other means at the start, and of all components
GAMMA_ZERO, GAMMA_OTHERS = (5e3, 2.0), (250.0, 0.1)  # Gamma(a, b) priors of the precisions: both pull the std to 0.02


@dataclass(frozen=True, kw_only=True)
class WeightSharing(Pruning):
    """Retrain a network under a mixture prior, then quantise it.

    Attributes
    ----------
    start, stop : float
        Epochs; before `start`, training is ordinary; after `stop`, weights are fixed at the values of their components,
        and only biases train on.
    components : int
        Gaussians, with the one at 0.
    strength : float
        Factor on the complexity (in nats, over the number of training examples) in the loss: tau in the paper.
    l2 : float
        Factor of an L2 term, l2 / 2 * sum theta^2, in the loss before `start`: what the data do not need is then small.
    lr_means, lr_shapes : float
        Adam's learning rates of the means, and of log precisions and mixing weights.
    """

    kind: ClassVar[str] = "weight-sharing"
    epochs: ClassVar[tuple[str, ...]] = ("start", "stop")
    start: float = 30.0
    stop: float = 58.0
    components: int = 16
    strength: float = 0.003
    l2: float = 0.0
    lr_means: float = 1e-4
    lr_shapes: float = 3e-3

    def __post_init__(self) -> None:
        self.check_window(self.start, self.stop)
        check_count("components", self.components, low=2, high=256)
        check_number("strength", self.strength, low=0, high=1000)
        for name in ("l2", "lr_means", "lr_shapes"):
            check_number(name, getattr(self, name), low=0, high=1)

    def pruner(self, model: Sequential, place: Place) -> Pruner:
        """See `Pruning.pruner`."""
        return _Sharer(self, model, place)


def start_mixture(components: int) -> Array:
    """The rows means, log precisions, logits of mixing weights, array (3, components)."""
    mixture = np.zeros((3, components))
    mixture[0, 1:] = np.linspace(-SPREAD, SPREAD, components - 1)
    mixture[1] = -2 * np.log(START_STD)
    return mixture


def log_shares(logits: Array) -> Array:
    """Logs of the mixing weights: that of the first component is fixed, the others share the rest by their logits."""
    free = logits[1:] - logits[1:].max()
    rest = np.log1p(-ZERO_SHARE) + free - np.log(np.exp(free).sum())
    return np.concatenate([[np.log(ZERO_SHARE)], rest])


def heights(mixture: Array) -> Array:
    """log(share sqrt(precision)) of each component: the log of its density at its mean, but for log(2 pi) / 2."""
    return log_shares(mixture[2]) + 0.5 * mixture[1]


def add_pulls(backend: HostMemory, weights: list[tuple[Array, Array]], mixture: Array, scale: float) -> Array:
    """Add scale times the gradient of the complexity to those of the weights, and return the mixture's.

    The complexity is minus the log of the mixture prior of all weights and of the Gamma priors of the precisions, in
    nats. `weights` are pairs of weights and their gradients; what is returned has the shape of the mixture.
    """
    means, precisions = mixture[0], np.exp(mixture[1])
    at_means = heights(mixture)
    parts = [
        backend.mixture_pulls(theta.reshape(-1), means, precisions, at_means, scale, gradient.reshape(-1))
        for theta, gradient in weights
    ]
    mass, first, second = np.sum(parts, axis=0)
    a, b = _hyper(len(means))
    d_means = -precisions * first
    d_means[0] = 0  # it stays at 0
    d_log_precisions = 0.5 * (precisions * second - mass) + (1 - a) + b * precisions
    mixing = np.exp(log_shares(mixture[2])[1:]) / (1 - ZERO_SHARE)
    d_logits = np.concatenate([[0.0], mixing * mass[1:].sum() - mass[1:]])
    return scale * np.stack([d_means, d_log_precisions, d_logits])


def quantised(theta: Array, mixture: Array) -> Array:
    """The mean of each weight's most responsible component; components that overlap with that at 0 count as it."""
    means, variances = mixture[0].copy(), np.exp(-mixture[1])
    kl = 0.5 * ((variances + means**2) / variances[0] - 1 - np.log(variances / variances[0]))
    means[kl < 1] = 0  # less than a nat apart
    likelihoods = heights(mixture)[:, None] - 0.5 * np.exp(mixture[1])[:, None] * (theta - mixture[0][:, None]) ** 2
    return means.astype(theta.dtype)[likelihoods.argmax(axis=0)]


def _hyper(components: int) -> tuple[Array, Array]:
    a, b = (np.full(components, value) for value in GAMMA_OTHERS)
    a[0], b[0] = GAMMA_ZERO
    return a, b


class _Sharer(Pruner):
    """`arrays`: the mixture, and Adam's two moments of it."""

    def __init__(self, plan: WeightSharing, model: Sequential, place: Place) -> None:
        super().__init__(model, place)
        self._plan = plan
        self._start, self._stop = place.step(plan.start), place.step(plan.stop)
        self._mixture, self._moments = start_mixture(plan.components), np.zeros((2, 3, plan.components))
        self.arrays = {"pruning/mixture": self._mixture, "pruning/moments": self._moments}

    def before_update(self, step: int, lr: float) -> None:
        """Add the gradient of the prior, and move the mixture; once the weights are quantised, keep them."""
        if step >= self._stop:
            for name in self.weights:
                self.arena.grad_views[name][...] = 0
        elif step >= self._start:
            weights = [(self.arena.views[name], self.arena.grad_views[name]) for name in self.weights]
            scale = self._plan.strength / self.place.n_train
            self._adam(add_pulls(self.backend, weights, self._mixture, scale), step - self._start + 1)
        else:
            self.decay(self._plan.l2)

    def _adam(self, gradients: Array, t: int) -> None:
        m, v = self._moments
        m += 0.1 * (gradients - m)
        v += 0.001 * (gradients**2 - v)
        rates = np.array([self._plan.lr_means, self._plan.lr_shapes, self._plan.lr_shapes])[:, None]
        self._mixture -= rates * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    def after_update(self, done: int) -> None:
        """Quantise when the time has come."""
        if done != self._stop:
            return
        for name in self.weights:
            theta, m, v, _ = self.arena.views_of(name)
            theta[...] = quantised(theta.reshape(-1), self._mixture).reshape(theta.shape)
            m[...] = v[...] = 0
            self.arena.hold(name, theta != 0)
