"""Soft weight-sharing (Nowlan & Hinton 1992; Ullrich, Meeds, Welling 2017): weights gather around a few values.

The prior of the weights is a mixture of Gaussians that is learned with them. One component is fixed at 0 and has almost
all of the mass. In the end each weight takes the mean of the component that it most likely came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from svd_numpy.checks import check_count, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.train.pruning import Place, Pruner, Pruning

ZERO_SHARE = 0.99  # weight of the component at 0
SPREAD, START_STD = 0.6, 0.25  # of the other means at the start, and of all components
_BLOCK = 4096  # weights at a time: what belongs to them stays in the cache
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


class Complexity(NamedTuple):
    """-log p(weights, mixture) in nats, up to a constant, and its gradients; each of the mixture's is (components,)."""

    nats: float
    d_theta: Array
    d_means: Array
    d_log_precisions: Array
    d_logits: Array


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


def log_joint(theta: Array, mixture: Array) -> Array:
    """log(share_j N(theta; mean_j, 1 / precision_j)) without -log(2 pi) / 2, array (components, weights)."""
    means, log_precisions, logits = (row.astype(theta.dtype) for row in mixture)
    heights = (log_shares(logits) + 0.5 * log_precisions).astype(theta.dtype)
    found = np.subtract(theta, means[:, None])
    np.square(found, out=found)
    found *= -0.5 * np.exp(log_precisions)[:, None]
    found += heights[:, None]
    return found


def complexity(theta: Array, mixture: Array) -> Complexity:
    """Minus the log of the mixture prior of weights (n,), and of the Gamma priors of its precisions."""
    means, precisions = mixture[0], np.exp(mixture[1])
    a, b = _hyper(mixture.shape[1])
    nats, d_theta, sums = 0.0, np.empty_like(theta), np.zeros((len(means), 3))  # sums of R, R theta, R theta^2
    pulls = np.stack([precisions, precisions * means]).astype(theta.dtype)
    for start in range(0, len(theta), _BLOCK):
        here = theta[start : start + _BLOCK]
        shares = log_joint(here, mixture)  # (components, weights)
        top = shares.max(axis=0)
        shares -= top
        np.exp(shares, out=shares)
        total = shares.sum(axis=0)
        nats -= float((np.log(total) + top).sum(dtype=np.float64))
        shares /= total  # R: how responsible each component is for each weight
        sums += shares @ np.stack([np.ones_like(here), here, here**2], axis=1)
        pull, towards = pulls @ shares
        d_theta[start : start + _BLOCK] = pull * here - towards
    mass, first, second = sums.T
    d_means = -precisions * (first - mass * means)
    d_means[0] = 0  # it stays at 0
    distances = second - 2 * means * first + means**2 * mass  # sum R (theta - mean)^2
    d_log_precisions = 0.5 * (precisions * distances - mass) + (1 - a) + b * precisions
    mixing = np.exp(log_shares(mixture[2])[1:]) / (1 - ZERO_SHARE)
    d_logits = np.concatenate([[0.0], mixing * mass[1:].sum() - mass[1:]])
    nats += float(((1 - a) * mixture[1] + b * precisions).sum())
    return Complexity(nats, d_theta, d_means, d_log_precisions, d_logits)


def quantised(theta: Array, mixture: Array) -> Array:
    """The mean of each weight's most responsible component; components that overlap with that at 0 count as it."""
    means, variances = mixture[0].copy(), np.exp(-mixture[1])
    kl = 0.5 * ((variances + means**2) / variances[0] - 1 - np.log(variances / variances[0]))
    means[kl < 1] = 0  # less than a nat apart
    return means.astype(theta.dtype)[log_joint(theta, mixture).argmax(axis=0)]


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

    def _theta(self) -> Array:
        return np.concatenate([self.arena.views[name].ravel() for name in self.weights])

    def before_update(self, step: int, lr: float) -> None:
        """Add the gradient of the prior, and move the mixture; once the weights are quantised, keep them."""
        if step >= self._stop:
            for name in self.weights:
                self.arena.grad_views[name][...] = 0
        elif step >= self._start:
            scale = self._plan.strength / self.place.n_train
            found, at = complexity(self._theta(), self._mixture), 0
            for name in self.weights:
                gradient = self.arena.grad_views[name]
                gradient += (scale * found.d_theta[at : at + gradient.size]).reshape(gradient.shape)
                at += gradient.size
            gradients = np.stack([found.d_means, found.d_log_precisions, found.d_logits])
            self._adam(scale * gradients, step - self._start + 1)
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
        values, at = quantised(self._theta(), self._mixture), 0
        for name in self.weights:
            theta, m, v, _ = self.arena.views_of(name)
            theta[...] = values[at : at + theta.size].reshape(theta.shape)
            m[...] = v[...] = 0
            self.arena.hold(name, theta != 0)
            at += theta.size
