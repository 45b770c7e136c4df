"""Convolutions in groups: each group of filters sees its own group of channels only."""

from __future__ import annotations

import numpy as np

from svd_numpy.kernels.backend import Array, Backend, Buffers, NoiseKey
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.window import Window

_NEXT_GROUP = 2**16  # added to the layer in the noise key: no network has as many layers


class Grouped:
    """The four operations of a layer with weights, as `Backend` defines them, on each group in turn.

    Channels, filters and gradients of a group are copied into arrays of their own, since operations take whole arrays.
    The weights of a group are its columns of theta (I, O), where I counts the taps of one group. The noise of a group
    is that of a layer of its own. Lists of weights never come here: to them, groups are weights that are not there.

    Parameters
    ----------
    backend : Backend
    memories : list of Buffers
        One for each group, kept by the layer from call to call.
    """

    def __init__(self, backend: Backend, memories: list[Buffers]) -> None:
        self._backend, self._memories = backend, memories

    def _part(self, name: str, whole: Array, group: int, copied: bool = True) -> Array:
        """An array with one group's share of the last axis; not copied if it is to be written."""
        width = whole.shape[-1] // len(self._memories)
        part = self._memories[group].get(f"part of {name}", (*whole.shape[:-1], width), whole.dtype)
        if copied:
            self._backend.copy_columns(whole, group * width, part, 0, width)
        return part

    def _put_back(self, part: Array, whole: Array, group: int) -> None:
        width = part.shape[-1]
        self._backend.copy_columns(part, 0, whole, group * width, width)

    def _share(self, row: Array, group: int) -> Array:
        """View of one group's share of an array (O,)."""
        width = len(row) // len(self._memories)
        return row[group * width : (group + 1) * width]

    def _window(self, window: Window | None) -> Window:
        assert window is not None
        return window._replace(channels=window.channels // len(self._memories))

    def dense_forward(
        self, x: Array, theta: Array, bias: Array, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        """See `Backend.dense_forward`."""
        for group, own in enumerate(self._memories):
            out = self._part("y", y, group, copied=False)
            self._backend.dense_forward(
                self._part("x", x, group), self._part("theta", theta, group), self._share(bias, group), out, own,
                self._window(window),
            )  # fmt: skip
            self._put_back(out, y, group)

    def dense_backward(
        self, x: Array, theta: Array, dy: Array, d_theta: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        """See `Backend.dense_backward`."""
        for group, own in enumerate(self._memories):
            slopes, pull = self._part("d_theta", d_theta, group, copied=False), self._pull(dx, group)
            self._backend.dense_backward(
                self._part("x", x, group), self._part("theta", theta, group), self._part("dy", dy, group), slopes,
                self._share(d_bias, group), pull, own, self._window(window),
            )  # fmt: skip
            self._put_back(slopes, d_theta, group)
            if dx is not None and pull is not None:
                self._put_back(pull, dx, group)

    def lrt_forward(
        self, x: Array, theta: Array, log_sigma2: Array, bias: Array, keep: float, key: NoiseKey,
        relu: bool, y: Array, memory: Buffers, window: Window | None = None,
        living: Living | None = None,
    ) -> None:  # fmt: skip
        """See `Backend.lrt_forward`."""
        for group, own in enumerate(self._memories):
            out = self._part("y", y, group, copied=False)
            self._backend.lrt_forward(
                self._part("x", x, group), self._part("theta", theta, group),
                self._part("log_sigma2", log_sigma2, group), self._share(bias, group), keep,
                key._replace(layer=key.layer + group * _NEXT_GROUP), relu, out, own, self._window(window),
            )  # fmt: skip
            self._put_back(out, y, group)

    def lrt_backward(
        self, x: Array, theta: Array, log_sigma2: Array, keep: float, dy: Array,
        rectified: Array | None, d_theta: Array, d_sigma2: Array, d_bias: Array, dx: Array | None, memory: Buffers,
        window: Window | None = None, living: Living | None = None,
    ) -> None:  # fmt: skip
        """See `Backend.lrt_backward`."""
        for group, own in enumerate(self._memories):
            slopes, pull = self._part("d_theta", d_theta, group, copied=False), self._pull(dx, group)
            spreads = self._part("d_sigma2", d_sigma2, group, copied=False)
            self._backend.lrt_backward(
                self._part("x", x, group), self._part("theta", theta, group),
                self._part("log_sigma2", log_sigma2, group), keep, self._part("dy", dy, group),
                None if rectified is None else self._part("y", rectified, group), slopes, spreads,
                self._share(d_bias, group), pull, own, self._window(window),
            )  # fmt: skip
            self._put_back(slopes, d_theta, group)
            self._put_back(spreads, d_sigma2, group)
            if dx is not None and pull is not None:
                self._put_back(pull, dx, group)

    def _pull(self, dx: Array | None, group: int) -> Array | None:
        return None if dx is None else self._part("dx", dx, group, copied=False)


def full_matrix(theta: Array, groups: int, taps: int) -> Array:
    """The matrix (taps * C, O) of a convolution without groups that does the same: theta (taps * C / groups, O)."""
    pieces = theta.reshape(taps, -1, groups, theta.shape[1] // groups)
    full = np.zeros((taps, groups, *pieces.shape[1:]), theta.dtype)
    for group in range(groups):
        full[:, group, :, group] = pieces[:, :, group]
    return full.reshape(-1, theta.shape[1])
