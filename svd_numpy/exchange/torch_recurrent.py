"""LSTMs, GRUs and embeddings of PyTorch: their arrays in the layout of the layers here, and back.

ours                               PyTorch
lstm1.theta (I + H, 4H)            <module>.weight_ih_l0 (4H, I) beside weight_hh_l0 (4H, H), transposed
lstm1.bias (4H,)                   bias_ih_l0 + bias_hh_l0; the gates are in the same order, i f g o
gru1.theta (I + H, 3H)             likewise, r z n
gru1.bias (4H,)                    bias_ih_l0 + bias_hh_l0 of r and z, bias_ih_l0 of n, bias_hh_l0 of n
embedding1.theta (V, D)            <module>.weight (V, D)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.exchange.torch_arrays import Modules
from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers import GRU, LSTM
from svd_numpy.network.layers.base import Layer

RECURRENT = ("LSTM", "GRU", "Embedding")  # classes of PyTorch whose arrays are read here
_GRU, _LSTM = 3, 4  # gates


def joined(modules: Modules) -> Modules:
    """Replace the arrays of recurrent modules by one "weight" (gates H, I + H) and one "bias" for each of their layers.

    A module with several layers becomes several: `<module>.l0`, `<module>.l1` and so on.

    Raises
    ------
    SvdValueError
        For a module that runs backwards as well, or has projections: layers here do not.
    """
    found = Modules()
    for name, arrays in modules.items():
        if "weight_ih_l0" not in arrays:
            found[name] = arrays
            continue
        if wrong := [kind for kind in arrays if not re.fullmatch(r"(weight|bias)_(ih|hh)_l\d+", kind)]:
            raise SvdValueError(
                f"source: module {name!r} has {wrong}, expected a recurrent module in one direction without projections"
            )
        depth = sum(kind.startswith("weight_ih") for kind in arrays)
        for level in range(depth):
            found[name if depth == 1 else f"{name}.l{level}"] = _joined(arrays, level)
    return found


def _joined(arrays: Mapping[str, Array], level: int) -> dict[str, Array]:
    of_inputs, of_state = arrays[f"weight_ih_l{level}"], arrays[f"weight_hh_l{level}"]
    units, columns = of_state.shape[1], len(of_state)
    nothing = np.zeros(columns, of_state.dtype)
    outer, inner = (arrays.get(f"bias_{side}_l{level}", nothing) for side in ("ih", "hh"))
    bias = outer + inner
    if columns == _GRU * units:
        bias = np.concatenate([bias[: 2 * units], outer[2 * units :], inner[2 * units :]])
    return {"weight": np.hstack([of_inputs, of_state]), "bias": bias}


def parted(layer: Layer, theta: Array, bias: Array) -> dict[str, Array]:
    """Undo `joined` for a layer: its arrays, as they are here, by PyTorch's names."""
    assert isinstance(layer, LSTM | GRU)
    cut, units = layer.in_features, layer.units
    inner = np.zeros(theta.shape[1], bias.dtype)
    outer = bias[: theta.shape[1]]
    if isinstance(layer, GRU):
        inner[2 * units :] = bias[3 * units :]
    return {
        "weight_ih_l0": theta[:cut].T, "weight_hh_l0": theta[cut:].T, "bias_ih_l0": outer, "bias_hh_l0": inner,
    }  # fmt: skip
