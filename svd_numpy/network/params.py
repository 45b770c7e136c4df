"""The arena: all parameters of a model in one flat buffer, of which layers hold views.

Layout: [all theta with a posterior | their log_sigma2 | everything else]. A table of segments says how each range is
treated (`kernels.backend.Segment`), so that chain rule, KL gradient, Adam, mask and projection are one pass over memory
and a checkpoint is one write. A layer's own prior, learning rate or bounds are rows of the table, and pruned weights
are bytes of the mask: none of them is a special case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, Segment, aligned_zeros
from svd_numpy.kernels.priors import LOG_SIGMA2_MAX, LOG_SIGMA2_MIN


@dataclass(frozen=True)
class ParamSpec:
    """One parameter array that a layer asks for.

    Attributes
    ----------
    name : str
        Full name, `<layer>.<array>`.
    shape : tuple of int
    start : array
        Initial value, broadcast to `shape`.
    log_sigma2 : array, optional
        Initial log variance. If given, every number has a Gaussian posterior, and a second array of the same shape,
        `<layer>.<spread>`, comes with it.
    prior : str, optional
        Prior of numbers with a posterior; default: the model's.
    low, high : float, optional
        Bounds of the numbers (default: none), or of their log variances if they have a posterior (default:
        `LOG_SIGMA2_MIN`, `LOG_SIGMA2_MAX`).
    lr_factor : float
        Factor on the learning rate.
    spread : str
        What the array of log variances is called.
    """

    name: str
    shape: tuple[int, ...]
    start: Array
    log_sigma2: Array | None = None
    prior: str | None = None
    low: float | None = None
    high: float | None = None
    lr_factor: float = 1.0
    spread: str = "log_sigma2"

    @property
    def size(self) -> int:
        """Count of the numbers, without their log variances."""
        return math.prod(self.shape)

    @property
    def names(self) -> list[str]:
        """Names of its arrays in `Sequential.parameters`."""
        second = f"{self.name[: self.name.rfind('.') + 1]}{self.spread}"
        return [self.name] if self.log_sigma2 is None else [self.name, second]


class Arena:
    """Flat buffers with one layout, for parameters, gradients, Adam's two moments and the mask.

    Attributes
    ----------
    params, grads, m, v : array (size,)
    mask : uint8 array (size,)
        0 where a number is held fixed in fine-tuning (`Backend.adam_step`), otherwise 1.
    segments : tuple of Segment
        The table. Every number except padding belongs to one segment.
    ranges : dict of name -> slice
        Where each parameter is.
    views, grad_views, mask_views : dict of name -> array
        Views of `params`, `grads` and `mask` in the shapes of the parameters, in the order of the layers.
    """

    def __init__(self, specs: Sequence[ParamSpec], dtype: Any, prior: str) -> None:
        gaussian = [spec for spec in specs if spec.log_sigma2 is not None]
        n_weights = _to_line(sum(spec.size for spec in gaussian))  # every part starts on a cache line
        size = 2 * n_weights + sum(spec.size for spec in specs if spec.log_sigma2 is None)
        # One allocation for all four: large enough for the operating system to back it with large pages.
        self.params, self.grads, self.m, self.v = aligned_zeros(4, size, dtype)
        self.mask = np.ones(size, np.uint8)
        at, behind = 0, 2 * n_weights  # where the next numbers with and without a posterior go
        table = list[Segment]()
        self.ranges: dict[str, slice] = {}
        for spec in specs:
            if spec.log_sigma2 is None:
                low, high = _given(spec.low, -math.inf), _given(spec.high, math.inf)
                table.append(Segment(spec.name, behind, behind + spec.size, -1, "", low, high, spec.lr_factor))
                self.ranges[spec.name] = slice(behind, behind + spec.size)
                behind += spec.size
            else:
                low, high = _given(spec.low, LOG_SIGMA2_MIN), _given(spec.high, LOG_SIGMA2_MAX)
                row = Segment(
                    spec.name, at, at + spec.size, n_weights + at, spec.prior or prior, low, high, spec.lr_factor
                )
                table.append(row)
                for name, start in zip(spec.names, (at, row.log_sigma2), strict=True):
                    self.ranges[name] = slice(start, start + spec.size)
                at += spec.size
        self.segments = _merged(sorted(table, key=lambda row: row.start))
        shapes = {name: spec.shape for spec in specs for name in spec.names}
        self.views, self.grad_views, self.mask_views = (
            {name: flat[self.ranges[name]].reshape(shape) for name, shape in shapes.items()}
            for flat in (self.params, self.grads, self.mask)
        )
        for spec in specs:
            self.views[spec.name][...] = spec.start
            if spec.log_sigma2 is not None:
                self.views[spec.names[1]][...] = spec.log_sigma2

    def views_of(self, name: str) -> list[Array]:
        """Views of a parameter's values, both moments and its mask, in its shape."""
        shape, here = self.views[name].shape, self.ranges[name]
        return [flat[here].reshape(shape) for flat in (self.params, self.m, self.v, self.mask)]

    def bounds_of(self, name: str) -> tuple[float, float]:
        """Lowest and highest number that an array of parameters can hold."""
        start = self.ranges[name].start
        for row in self.segments:
            size = row.stop - row.start
            if row.start <= start < row.stop:
                return (-math.inf, math.inf) if row.prior else (row.low, row.high)
            if row.prior and row.log_sigma2 <= start < row.log_sigma2 + size:
                return row.low, row.high
        return -math.inf, math.inf  # an array without numbers

    def reset_moments(self) -> None:
        """Set Adam's moments to 0."""
        self.m[:] = 0
        self.v[:] = 0

    def hold(self, name: str, alive: NDArray[np.bool_]) -> None:
        """Set numbers of a parameter that are not alive to 0 and hold them; release the others.

        Their moments become 0, too, and their log variances, if they have any, the lowest that there is.
        """
        alive, here = alive.reshape(-1), self.ranges[name]
        dead = ~alive
        for flat in (self.params, self.m, self.v):
            flat[here][dead] = 0
        self.mask[here] = alive
        for segment in self.segments:
            if segment.prior and segment.start == here.start:
                behind = slice(segment.log_sigma2, segment.log_sigma2 + len(dead))
                for flat, value in ((self.params, segment.low), (self.m, 0), (self.v, 0)):
                    flat[behind][dead] = value
                self.mask[behind] = alive

    def share_non_finite(self) -> float:
        """Share of parameters and moments that are NaN or infinite: 0.0 in a sound run."""
        bad = sum(int(np.count_nonzero(~np.isfinite(a))) for a in (self.params, self.m, self.v))
        return bad / max(1, 3 * self.params.size)


def _given(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _to_line(count: int) -> int:
    """Round up to whole cache lines of 16 numbers."""
    return -(-count // 16) * 16


def _merged(rows: Sequence[Segment]) -> tuple[Segment, ...]:
    """Merge adjacent rows without a posterior that are treated alike: fewer rows mean less work in the sweep."""
    merged = list[Segment]()
    for row in rows:
        last = merged[-1] if merged else None
        if last and not (row.prior or last.prior) and row.start == last.stop and row[5:] == last[5:]:
            merged[-1] = last._replace(stop=row.stop)
        else:
            merged.append(row)
    return tuple(merged)
