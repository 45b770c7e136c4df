"""Numba kernel of convolutions on lists of living weights: all gradients where few of the outputs have any.

Where a hundredth of the weights live and an eighth of the output gradients are not 0 (see `conv_few.py`), one product
in a thousand is. This kernel lists those output gradients by output, and goes through the list for each living weight:
number by number, without vectors, but without anything that is 0.

A thread owns slices of the batch, each with sums of its own: the bits are the same on any number of threads. A plain
convolution passes empty arrays for everything that belongs to the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from svd_numpy.kernels.backend import Array, Buffers
from svd_numpy.kernels.cpu.conv import padded_room, prepare_images
from svd_numpy.kernels.cpu.conv_few import SLICES, list_slopes, without_padding
from svd_numpy.kernels.cpu.jit import kernel
from svd_numpy.kernels.cpu.lists import lists_of
from svd_numpy.kernels.cpu.simd import TWO, ZERO, F
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.window import Window

_PIXELS = 2**15  # floats of the images that are treated at a time: with their gradients, half a second-level cache
_EMPTY = np.zeros((0, 0), F)


@cache
def _positions(window: Window, images: int) -> NDArray[np.int32]:
    """Where the window of each position of each image starts, in floats from the first padded image."""
    image, down, across = np.indices((images, *window.out)).reshape(3, -1)
    at = ((image * window.padded[0] + down) * window.padded[1] + across) * window.channels
    return at.astype(np.int32)


@kernel()
def _weight(at, slope, slope2, place, theta, sigma2, images, pixels, variational):
    """Gradients of one weight, for theta and sigma^2; adds those of the pixels that it reads, unless `pixels` is empty.

    at, slope, slope2 : of the outputs: where their windows start, gradients, gradients of the variance
    place : of the weight in the window
    """
    d_theta, d_sigma2, twice = ZERO, ZERO, TWO * sigma2
    for e in range(np.uint64(len(at))):
        pixel = np.uint64(at[e] + place)
        x, pull = images[pixel], slope[e] * theta
        d_theta += slope[e] * x
        if variational:
            d_sigma2 += slope2[e] * x * x
            pull += twice * slope2[e] * x
        if len(pixels) > 0:
            pixels[pixel] += pull
    return d_theta, d_sigma2


@kernel()
def _block(images, dy, r, positions, starts, places, theta, sigma2, by_output, numbers, results, bias_sums, pixels):
    """Add the gradients of some images; the arguments are those of `gradients`, flat, its arrays one thread's."""
    fill, rows = numbers[: len(bias_sums)], numbers[len(bias_sums) :]
    list_slopes(dy, r, by_output, by_output[0, :0], fill, rows)
    at = by_output[0].view(np.int32)
    pixels[:] = ZERO
    for o in range(len(fill)):
        events = fill[o]
        for e in range(events):
            at[o, e] = positions[at[o, e]]
            bias_sums[o] += by_output[1, o, e]
        for k in range(starts[o], starts[o + 1]):
            of_theta, of_sigma2 = _weight(
                at[o, :events], by_output[1, o, :events], by_output[2, o, :events], places[k], theta[k], sigma2[k],
                images, pixels, len(r) > 0,
            )  # fmt: skip
            results[0, k] += of_theta
            results[1, k] += of_sigma2


@kernel(parallel=True)
def gradients(threads, images, dy, r, block, positions, starts, places, theta, sigma2, by_output, numbers, results,
              bias_sums, d_images, scratch):  # fmt: skip
    """Gradients of a convolution from output gradients of which few are not 0: dy (B, P * O), rectified already.

    images, d_images : padded (B, pixels), and their gradients, unless that is empty
    block : images that are treated at a time;  positions : theirs, see `_positions`
    starts, places : see `lists.Lists`
    by_output, numbers : each thread's own memory (`conv_few.list_slopes`)
    results, bias_sums : gradients (slices, 2, n) and (slices, O) of each slice of the batch
    """
    batch, slices = len(dy), len(results)
    for thread in prange(threads):
        for s in range(thread * slices // threads, (thread + 1) * slices // threads):
            results[s] = ZERO
            bias_sums[s] = ZERO
            last = (s + 1) * batch // slices
            for begin in range(s * batch // slices, last, block):
                some = slice(begin, min(begin + block, last))
                _block(images[some].reshape(-1), dy[some].reshape(-1), r[some].reshape(-1), positions, starts, places,
                       theta, sigma2, by_output[thread], numbers[thread], results[s], bias_sums[s],
                       d_images[some].reshape(-1))  # fmt: skip


@kernel(parallel=True)
def pad(threads, x, padding, padded, scratch):
    """Padded images (B, pixels) of images x (B, H, W, C)."""
    for thread in prange(threads):
        prepare_images(x, thread * len(x) // threads, (thread + 1) * len(x) // threads, padding, padded, padded[:0, :0])


def backward(
    run: Callable[..., None], x: Array, theta: Array, dy: Array, d_theta: Array, d_sigma2: Array, d_bias: Array,
    dx: Array | None, memory: Buffers, window: Window, living: Living,
) -> None:  # fmt: skip
    """All gradients of a convolution, a plain one if d_sigma2 is empty; dy (B, P * O) is rectified already.

    Reads what the forward pass on lists (`lists.forward`) left in `memory`.
    """
    own, slices, variational = lists_of(living, window), min(SLICES, len(x)), d_sigma2.size > 0
    padded = padded_room(x, "padded", memory, window)
    if any(window.padding):
        run(pad, x, window.padding, padded)
    images = _EMPTY if dx is None else padded_room(dx, "sums", memory, window)
    used, sigma2 = (memory.get(name, theta.shape, F) for name in ("used", "sigma2")) if variational else (theta, theta)
    block = max(1, min(-(-len(x) // slices), _PIXELS // padded.shape[1]))
    rows = block * math.prod(window.out)
    threads, n_out = numba.get_num_threads(), len(d_bias)
    results = memory.get("results", (slices, 2, len(theta)), F)
    bias_sums = memory.get("slice_sums", (slices, n_out), F)
    r: Any = memory.get("r", dy.shape, F) if variational else _EMPTY
    run(
        gradients, padded, dy, r, block, _positions(window, block), own.starts, own.places, used, sigma2,
        memory.get("by_output", (threads, 3, n_out, rows), F),
        memory.get("numbers", (threads, n_out + rows + 1), np.int64), results, bias_sums, images,
    )  # fmt: skip
    d_theta[:] = results[:, 0].sum(axis=0)
    if variational:
        d_sigma2[:] = results[:, 1].sum(axis=0)
    d_bias[:] = bias_sums.sum(axis=0)
    if dx is not None and any(window.padding):
        run(without_padding, window.padding, images, dx)
