"""The arena: every parameter of a model in one flat buffer, and layers hold views of it.

Layout: [all theta | all log_sigma2 | everything deterministic]. A weight's theta and log_sigma2 lie
`n_weights` apart, so that the chain rule, the KL gradient, Adam and the projection are one pass over memory,
and a checkpoint is one write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import aligned_zeros

Array = NDArray[Any]
Kind = Literal["theta", "log_sigma2", "plain"]


@dataclass(frozen=True)
class ParamSpec:
    """One parameter array that a layer asks for.

    Attributes
    ----------
    name : str
        Full name, `<layer>.<array>`.
    shape : tuple of int
    kind : "theta", "log_sigma2" or "plain"
        Which part of the arena. A layer asks for a theta and its log_sigma2 together, with the same shape.
    start : array
        First value, broadcast to `shape`.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    start: Array


class Arena:
    """Flat buffers for parameters, gradients and Adam's two moments, all of one layout.

    Attributes
    ----------
    params, grads, m, v : array (2 * n_weights + n_plain,)
    n_weights : int
        Length of the theta part, and of the log_sigma2 part: the number of variational weights, rounded up to 16 so
        that both parts start on a cache line. The few weights too many are 0 and stay 0.
    segments : int64 array
        Where the weights of each layer begin in the theta part, and where the last ones end (n_weights).
    views, grad_views : dict of name -> array
        Views into `params` and `grads`, shaped.
    """

    def __init__(self, specs: Sequence[ParamSpec], dtype: Any) -> None:
        parts = [[s for s in specs if s.kind == kind] for kind in ("theta", "log_sigma2", "plain")]
        sizes = [sum(int(np.prod(s.shape)) for s in part) for part in parts]
        starts = {"theta": 0, "log_sigma2": -(-sizes[0] // 16) * 16}
        starts["plain"] = 2 * starts["log_sigma2"]
        self.n_weights = starts["log_sigma2"]
        self.segments = np.array([0, *np.cumsum([np.prod(s.shape) for s in parts[0]])], np.int64)
        self.segments[-1] = self.n_weights
        # One allocation for all four: large enough for the operating system to back it with large pages.
        self.params, self.grads, self.m, self.v = aligned_zeros(4, starts["plain"] + sizes[2], dtype)
        self.views: dict[str, Array] = {}
        self.grad_views: dict[str, Array] = {}
        for spec in (spec for part in parts for spec in part):
            at, end = starts[spec.kind], starts[spec.kind] + int(np.prod(spec.shape))
            self.views[spec.name] = self.params[at:end].reshape(spec.shape)
            self.grad_views[spec.name] = self.grads[at:end].reshape(spec.shape)
            self.views[spec.name][...] = spec.start
            starts[spec.kind] = end
        self.views = {spec.name: self.views[spec.name] for spec in specs}  # in the order of the layers
        self.grad_views = {spec.name: self.grad_views[spec.name] for spec in specs}

    def reset_moments(self) -> None:
        """Start Adam afresh."""
        self.m[:] = 0
        self.v[:] = 0

    def share_non_finite(self) -> float:
        """Share of values that are NaN or infinite, over parameters and moments: 0.0 in a sound run."""
        bad = sum(int(np.count_nonzero(~np.isfinite(a))) for a in (self.params, self.m, self.v))
        return bad / max(1, 3 * self.params.size)
