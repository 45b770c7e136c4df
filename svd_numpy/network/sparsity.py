"""Pruning: log_alpha, the threshold, and counts of the weights that are left.

A weight is pruned when log_alpha = log_sigma2 - log(theta^2) exceeds the threshold (Molchanov et al. 2017,
§4.4: 3, at which sigma^2 is twenty times theta^2). Compression is counted as in that paper: all weights /
weights kept, without biases and without the bytes of any index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svd_numpy.checks import check_threshold, check_type
from svd_numpy.kernels import priors
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.priors import LOG_SIGMA2_MIN
from svd_numpy.network.model import Sequential


def log_alpha(model: Sequential) -> dict[str, Array]:
    """log_alpha of every variational layer: {layer name: array (I, O)}. Finite, even where theta is 0."""
    check_type("model", model, Sequential)
    return {layer.name: priors.log_alpha(layer.theta, layer.log_sigma2) for layer in model.variational_layers}


@dataclass(frozen=True)
class Sparsity:
    """Counts of one network at one threshold.

    Attributes
    ----------
    threshold : float
    total, kept : dict of layer name -> int
        Weights (without biases), including those of plain layers; `total` counts the network as it was first built.
    live : dict of layer name -> (int, int)
        Outputs (units, or filters of a convolution) with at least one surviving incoming weight, and all outputs.
        The other outputs are constants, the same for every input.
    """

    threshold: float
    total: dict[str, int]
    kept: dict[str, int]
    live: dict[str, tuple[int, int]]

    @property
    def by_layer(self) -> dict[str, float]:
        """Share of zeros in each layer."""
        return {name: 1 - self.kept[name] / self.total[name] for name in self.total}

    @property
    def overall(self) -> float:
        """Share of zeros over all layers."""
        return 1 - sum(self.kept.values()) / max(1, sum(self.total.values()))

    @property
    def compression(self) -> float:
        """All weights / weights kept; an empty network counts as one weight."""
        return max(1, sum(self.total.values())) / max(1, sum(self.kept.values()))


def measure_sparsity(model: Sequential, threshold: float | None = None) -> Sparsity:
    """Count the weights that survive the threshold (default: the model's), and the units that still have one."""
    check_type("model", model, Sequential)
    threshold = model.threshold if threshold is None else check_threshold("threshold", threshold)
    total, kept, live = dict[str, int](), dict[str, int](), dict[str, tuple[int, int]]()
    for name, alive in model.alive(threshold).items():
        total[name], units = model.original.get(name, (alive.size, alive.shape[1]))
        kept[name] = int(np.count_nonzero(alive))
        live[name] = int(np.count_nonzero(alive.any(axis=0))), units
    return Sparsity(threshold, total, kept, live)


def sparsify(model: Sequential, threshold: float = 3.0) -> Sequential:
    """Return a copy of the model with this threshold, in which pruned weights are exactly 0."""
    check_type("model", model, Sequential)
    copy = model.copy()
    copy.threshold = check_threshold("threshold", threshold)
    for name, alive in copy.alive().items():
        copy.parameters[f"{name}.theta"][~alive.reshape(copy.parameters[f"{name}.theta"].shape)] = 0
    return copy


def freeze(model: Sequential, threshold: float, noise: bool = False) -> None:
    """Prune in place, for good: set pruned weights to 0 and hold them there, without noise; gates are held as they are.

    Masked fine-tuning starts here. Unless the others keep their `noise`, all log_sigma2 go to their lower bound, too:
    from now on the network is an ordinary sparse one.
    """
    for name, alive in model.alive(threshold).items():
        model.arena.hold(f"{name}.theta", alive)
    for layer in () if noise else model.variational_layers:
        layer.log_sigma2[...] = LOG_SIGMA2_MIN
    for name in (f"{layer.name}.{own}" for layer in model.layers for own in layer.fixed):
        model.arena.mask_views[name][:] = 0
