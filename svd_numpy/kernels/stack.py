"""`Stack`: variational dense layers on lists of weights that follow each other, computed in one operation.

Layer after layer is that of `Backend.lrt_forward`, and the results are the same. Where little of a network is left, a
layer takes less time than the call of a kernel; a stack needs one for all its layers, and is free to keep what passes
between them in whatever layout suits it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.living import Array, Living

if TYPE_CHECKING:
    from svd_numpy.kernels.backend import NoiseKey


class StackLayer(NamedTuple):
    """One layer of a stack: n weights that it lists, of a matrix (I, O); see `Backend.lrt_forward`.

    Attributes
    ----------
    number : int
        Of the layer, in its noise keys.
    living : Living
        Places of the weights.
    relu : bool
        Whether it rectifies its outputs.
    theta, log_sigma2, bias : arrays (n,), (n,) and (O,)
        Read in every pass.
    d_theta, d_sigma2, d_bias : arrays of the same shapes
        Where backward writes their gradients.
    """

    number: int
    living: Living
    relu: bool
    theta: Array
    log_sigma2: Array
    bias: Array
    d_theta: Array
    d_sigma2: Array
    d_bias: Array


class Rows(NamedTuple):
    """Examples that are still to be gathered: the first arguments of `Backend.gather_rows`."""

    source: Array
    order: NDArray[np.int64]
    scale: float
    mean: Array


class Stack(Protocol):
    """Layers in a row, bound to their arrays. It owns what it returns, until its next pass."""

    def forward(self, x: Array | Rows, keep: float, key: NoiseKey | None) -> Array:
        """Inputs x (B, I) of the first layer -> y (B, O) of the last: a sample, or the means if there is no key.

        A layer draws the noise of `key` at its own number. Examples that are not gathered yet are so on the way.
        Without a key no mean is masked, whatever `keep` is (`Backend.dense_forward`).
        """

    def backward(self, dy: Array, want_dx: bool) -> Array | None:
        """Gradients of the last `forward`, once; return dx (B, I) if wanted. May overwrite dy.

        Those of the variances are 0 if it had no key.
        """
