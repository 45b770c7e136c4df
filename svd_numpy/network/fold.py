"""`fold_gates`: the ordinary network that does the same as one with gates."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from svd_numpy.checks import check_type
from svd_numpy.kernels.backend import Array
from svd_numpy.network.closed import close
from svd_numpy.network.layers.base import Layer
from svd_numpy.network.layers.batch_norm import BatchNorm
from svd_numpy.network.layers.gate import Gate
from svd_numpy.network.layers.sampled import SampledWeights
from svd_numpy.network.model import Sequential


def fold_gates(model: Sequential, gate_noise: bool = False) -> Sequential:
    """Return a network without gates and with the same outputs: their factors are multiplied into weights.

    The factors of a gate go into the next layer with weights, or, where something stands between that cannot be scaled
    (a batch normalisation, say), into the weights and biases (or gamma and beta) before it. Where neither can take
    them, the gate becomes a `BatchNorm` that only scales. Factors that groups of recurrent weights share
    (`VariationalLSTM(groups=...)`) are multiplied into these. Weights that feed or read nothing but closed units become
    0. Variances are scaled as the weights are, except that they stay within their bounds.

    Parameters
    ----------
    model : Sequential
        It is not changed.
    gate_noise : bool
        Let variances of weights behind a gate include that of its factor: Var(z w) instead of z^2 Var w.

    Returns
    -------
    Sequential
        A new network for inference; a copy if there is no gate.
    """
    check_type("model", model, Sequential)
    with model.exclusive:
        arrays = {name: array.astype(np.float64) for name, array in model.arrays().items()}
        layers, config = dict[str, dict[str, object]](), model.config()
        for layer, own in zip(model.layers, config["layers"], strict=True):
            if isinstance(layer, SampledWeights) and layer.weight_groups:
                layers[layer.name] = _fold_groups(layer, own, arrays, gate_noise)
            elif not isinstance(layer, Gate):
                layers[layer.name] = own
            elif not _fold(model, layer, arrays, gate_noise):
                layers[layer.name] = _as_batch_norm(layer, arrays)
            for name in layer.axes if isinstance(layer, Gate) else ():
                del arrays[f"{layer.name}.{name}"]
        folded = Sequential.from_config({**config, "layers": list(layers.values())}, model.backend.name)
        _clear(model, arrays)
        for segment in folded.arena.segments:  # rounding and factors may lead past a bound
            name = f"{segment.name.rpartition('.')[0]}.log_sigma2"
            if segment.prior:
                arrays[name] = np.clip(arrays[name], segment.low, segment.high)
        folded.load_arrays(arrays)
        return folded


def _fold_groups(
    layer: SampledWeights, config: dict[str, object], arrays: dict[str, Array], noise: bool
) -> dict[str, object]:
    """Multiply the factors of groups into the weights; return the configuration of the same layer without groups."""
    for axis, z, var in zip((-2, -1), layer.group_factors(), layer.group_variances(), strict=True):
        _scale(arrays, f"{layer.name}.theta", z, var if noise else 0 * var, axis=axis)
    for own in layer.fixed:
        del arrays[f"{layer.name}.{own}"]
    return {name: value for name, value in config.items() if name not in ("groups", "family")}


def _fold(model: Sequential, gate: Gate, arrays: dict[str, Array], noise: bool) -> bool:
    """Multiply the factors of a gate into the arrays of a layer near it; return False if there is none for them."""
    z, var = gate.factors(), gate.variances() if noise else np.zeros(gate.num_features)
    negative = bool((z < 0).any())
    behind = _reachable(model.layers[gate.index + 1 :], negative)
    if behind is not None and "in" in behind.axes.get("theta", ()):
        _scale(arrays, f"{behind.name}.theta", z, var, axis=-2)
        return True
    before = _reachable(reversed(model.layers[: gate.index]), negative)
    own = [] if before is None else [name for name in before.output_arrays if f"{before.name}.{name}" in arrays]
    if before is None or not own or len(z) != before.out_shape[-1]:
        return False
    for name in own:
        _scale(arrays, f"{before.name}.{name}", z, var, axis=-1)
    return True


def _reachable(layers: Iterable[Layer], negative: bool) -> Layer | None:
    """The first layer that can take factors, if they can be moved through those on the way."""
    for layer in layers:
        if layer.output_arrays:
            return layer
        if layer.homogeneous is None or (negative and layer.homogeneous != "any"):
            return None
    return None


def _scale(arrays: dict[str, Array], name: str, z: Array, var: Array, axis: int) -> None:
    """Multiply an array by factors along an axis: Var(z w) = E^2 z Var w + Var z (E^2 w + Var w)."""
    array = arrays[name]
    factors, spread = (np.tile(of, array.shape[axis] // len(z)).reshape(-1, *[1] * (-1 - axis)) for of in (z, var))
    arrays[name] = array * factors
    variances = f"{name.rpartition('.')[0]}.log_sigma2"
    if name.endswith(".theta") and variances in arrays:
        with np.errstate(divide="ignore"):
            total = np.logaddexp(2 * np.log(np.abs(array)), arrays[variances])
            arrays[variances] = np.logaddexp(arrays[variances] + 2 * np.log(np.abs(factors)), total + np.log(spread))


def _as_batch_norm(gate: Gate, arrays: dict[str, Array]) -> dict[str, object]:
    """Configuration of a batch normalisation that multiplies by the factors of a gate; add its arrays."""
    layer, ones = BatchNorm(gate.num_features, name=gate.name), np.ones(gate.num_features)
    own = {"gamma": gate.factors(), "beta": 0 * ones, "running_mean": 0 * ones, "running_var": (1 - layer.eps) * ones}
    arrays |= {f"{gate.name}.{name}": array for name, array in own.items()}
    return layer.config()


def _clear(model: Sequential, arrays: dict[str, Array]) -> None:
    """Set weights to 0, without variance, that feed or read nothing but closed units."""
    open_ = {name: np.ones_like(alive) for name, alive in model.alive().items()}
    close(model.layers, open_)
    for name, alive in open_.items():
        for array, nothing in ((f"{name}.theta", 0), (f"{name}.log_sigma2", -np.inf)):
            if array in arrays:
                arrays[array] = np.where(alive.reshape(arrays[array].shape), arrays[array], nothing)
