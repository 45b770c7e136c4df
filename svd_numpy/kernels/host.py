"""What the backends that work in host memory share, in plain NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Arena, Array


class HostMemory:
    """What backends that work in host memory share: the memory operations of the contract, and the gradient's norm."""

    def to_device(self, *arrays: Array) -> None:
        """See `Backend.to_device`."""

    def to_host(self, *arrays: Array) -> None:
        """See `Backend.to_host`."""

    def clear(self, array: Array) -> None:
        """See `Backend.clear`."""
        array[...] = 0

    def copy_columns(self, source: Array, start: int, target: Array, at: int, width: int) -> None:
        """See `Backend.copy_columns`."""
        target[..., at : at + width] = source[..., start : start + width]

    def blend(self, target: Array, source: Array, rate: float, scale: float = 1.0) -> None:
        """See `Backend.blend`."""
        target[:] = (1 - rate) * target + rate * source * scale

    def average(self, target: Array, source: Array, batches: Array, more: int, scale: float = 1.0) -> None:
        """See `Backend.average`."""
        batches += more
        target += (scale * source - target) / batches

    def apply_mask(self, theta: Array, mask: NDArray[np.uint8], out: Array) -> None:
        """See `Backend.apply_mask`."""
        np.multiply(theta, mask, out=out)

    def clip_gradients(self, arena: Arena, most: float) -> None:
        """See `Backend.clip_gradients`."""
        total = 0.0
        for segment in arena.segments:
            size = segment.stop - segment.start
            parts = [arena.grads[segment.start : segment.stop]]
            if segment.prior:
                behind = slice(segment.log_sigma2, segment.log_sigma2 + size)
                parts.append(np.exp(arena.params[behind]) * arena.grads[behind])
            total += sum(float(np.square(part, dtype=np.float64).sum()) for part in parts)
        if total > most**2:
            arena.grads *= arena.grads.dtype.type(most / math.sqrt(total))

    def mixture_pulls(
        self, theta: Array, means: Array, precisions: Array, heights: Array, scale: float, d_theta: Array
    ) -> Array:
        """The pull of a mixture of K Gaussians at weights: d_theta += scale sum_j precision_j R_j (theta - mean_j).

        R_j, the responsibility of component j for a weight, is the softmax over j of height_j - precision_j (theta -
        mean_j)^2 / 2; heights are log(share_j sqrt(precision_j)). Weights (n,), the mixture (K,) each, in float64.

        Returns the sums over the weights of R, R (theta - mean) and R (theta - mean)^2, array (3, K) in float64.
        """
        distances = theta - means[:, None].astype(theta.dtype)  # (K, n)
        shares = heights[:, None].astype(theta.dtype) - precisions[:, None].astype(theta.dtype) * distances**2 / 2
        shares = np.exp(shares - shares.max(axis=0))
        shares /= shares.sum(axis=0)
        pulls = shares * distances
        d_theta += scale * (precisions.astype(theta.dtype) @ pulls)
        sums: Array = np.stack([part.sum(axis=1, dtype=np.float64) for part in (shares, pulls, pulls * distances)])
        return sums
