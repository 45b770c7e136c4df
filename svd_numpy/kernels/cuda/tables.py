"""Tables of addresses: where the entries of a product's two matrices lie, for dense layers and for convolutions.

**One rule for both.** `product.py` multiplies A (M x K) by B (K x N) without knowing what they are:

    A(m, k) is at row[m] + column[k]        B(k, n) is at b[k] + n b_step

Of a dense layer row[m] = m I and column[k] = k. Of a convolution, m is a position of an image and k a tap of the
kernel: where a window's corner lies, plus how far a tap is from the corner. Both are sums of a part that depends on m
alone and one that depends on k alone, *because* images are padded beforehand; that is the whole trick, and no im2col
row is ever written.

    pass       m                  k                      A                             B
    forward    output position    tap, input channel     padded images                 theta
    inputs     pixel              tap, output channel    stretched gradients           theta, transposed: b_step = O
    weights    tap, channel       output position        padded images, transposed     gradients

The transpose of A is the same tables with their names exchanged. For the gradient of the inputs the gradients of the
outputs are laid out `stride` apart (`stretching`), so that every pixel sees every tap, by steps of 1, and tap ky lies
ky DH *before* it: hence the minus signs in `inputs`.

**Cost.** A table is 4 bytes an entry, made by NumPy once for each shape, sent once, and the same for all runs. The
longest is that of rows: 57,600 entries, 230 KB, of LeNet-5's first convolution at batch 100. A thread reads a row's
entry once into shared memory and a column's entry once for every number it fetches; neighbours read neighbouring
entries, and all blocks the same ones, so that they come from the cache. Against that, computing y and x of a position
would take two integer divisions for each number. uint32 reaches 4 G numbers of an activation, 16 GB.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svd_numpy.kernels.padding import Padding, sources
from svd_numpy.kernels.window import Window

Table = NDArray[np.uint32]


class Addresses(NamedTuple):
    """One product: M, N, K, and where its entries lie."""

    m: int
    n: int
    k: int
    row: Table
    column: Table
    b: Table
    b_step: int


class Spread(NamedTuple):
    """How images are laid out in larger ones before a convolution reads them (`images.spread`)."""

    to: tuple[int, int]  # height, width
    corner: tuple[int, int]  # where pixel (0, 0) goes
    steps: tuple[int, int]  # from pixel to pixel


def _multiples(count: int, step: int) -> Table:
    return (np.arange(count) * step).astype(np.uint32)


def padding(window: Window) -> Spread | None:
    """How a convolution's inputs are padded; None where they stay as they are."""
    return Spread(window.padded, window.padding, (1, 1)) if any(window.padding) else None


def stretching(window: Window) -> Spread:
    """How the gradients of a convolution's outputs are laid out for the gradient of its inputs.

    Pixel y sees output position oy by tap ky where oy * stride = y + padding - ky * dilation. With the gradients
    `stride` apart and zeros between, that is a convolution with steps of 1: no position is computed, all are read.
    """
    top, left = (
        max(0, (k - 1) * d - p) for k, d, p in zip(window.kernel, window.dilation, window.padding, strict=True)
    )
    (py, px) = window.padding
    return Spread((window.height + py + top, window.width + px + left), (top, left), window.stride)


@lru_cache(maxsize=256)
def _inputs_seen(window: Window, examples: int) -> tuple[Table, Table]:
    """Corner of each window (B * P,), and distance of each tap from it (taps,), in the padded images."""
    (height, width), (down, across), channels = window.padded, window.out, window.channels
    corner = np.add.outer(np.arange(down) * window.stride[0] * width, np.arange(across) * window.stride[1])
    rows = np.add.outer(np.arange(examples) * height * width, corner.ravel()) * channels
    taps = np.add.outer(
        np.arange(window.kernel[0]) * window.dilation[0] * width, np.arange(window.kernel[1]) * window.dilation[1]
    )
    columns = np.add.outer(taps.ravel() * channels, np.arange(channels))
    return rows.ravel().astype(np.uint32), columns.ravel().astype(np.uint32)


@lru_cache(maxsize=256)
def forward(examples: int, n_in: int, n_out: int, window: Window | None) -> Addresses:
    """Rows of inputs times weights."""
    if window is None:
        return Addresses(
            examples, n_out, n_in, _multiples(examples, n_in), _multiples(n_in, 1), _multiples(n_in, n_out), 1
        )
    rows, columns = _inputs_seen(window, examples)
    return Addresses(len(rows), n_out, n_in, rows, columns, _multiples(n_in, n_out), 1)


@lru_cache(maxsize=256)
def weights(examples: int, n_in: int, n_out: int, window: Window | None) -> Addresses:
    """Inputs, transposed, times gradients of the outputs."""
    there = forward(examples, n_in, n_out, window)
    return Addresses(n_in, n_out, there.m, there.column, there.row, _multiples(there.m, n_out), 1)


@lru_cache(maxsize=256)
def inputs(examples: int, n_in: int, n_out: int, window: Window | None) -> Addresses:
    """Gradients of the outputs times weights, transposed."""
    if window is None:
        return Addresses(
            examples, n_in, n_out, _multiples(examples, n_out), _multiples(n_out, 1), _multiples(n_out, 1), n_out
        )
    there = stretching(window)
    (height, width), (top, left) = there.to, there.corner
    pixels = np.add.outer(np.arange(window.height) * width, np.arange(window.width)).ravel()
    rows = np.add.outer(np.arange(examples) * height * width, pixels) * n_out
    down = window.padding[0] + top - np.arange(window.kernel[0]) * window.dilation[0]
    across = window.padding[1] + left - np.arange(window.kernel[1]) * window.dilation[1]
    taps = np.add.outer(down * width, across).ravel()
    columns = np.add.outer(taps * n_out, np.arange(n_out))
    b = np.add.outer(np.arange(len(taps)) * window.channels * n_out, np.arange(n_out))
    row, column, starts = (table.ravel().astype(np.uint32) for table in (rows, columns, b))
    return Addresses(len(row), window.channels, len(column), row, column, starts, n_out)


@lru_cache(maxsize=256)
def copies(padding: Padding) -> tuple[tuple[Table, Table], tuple[Table, Table]]:
    """Which pixels each padded pixel sums, and which padded pixels each pixel: (starts, pixels) for both ways."""
    source = sources(padding)
    padded = np.flatnonzero(source >= 0)
    order = padded[np.argsort(source[padded], kind="stable")]
    there = _lists(padded, source[padded], source.size), _lists(source[order], order, padding.height * padding.width)
    return there


def _lists(rows: NDArray[Any], at: NDArray[Any], count: int) -> tuple[Table, Table]:
    """Where the entries of each row begin, and the entries."""
    return np.searchsorted(rows, np.arange(count + 1)).astype(np.uint32), at.astype(np.uint32)


def geometry(window: Window) -> tuple[np.int32, ...]:
    """Pack a window into the numbers that the kernels of images take (`images.py`)."""
    pairs = window.kernel, window.stride, window.padding, window.dilation, window.out
    return tuple(np.int32(v) for v in (*window[:3], *(v for pair in pairs for v in pair)))
