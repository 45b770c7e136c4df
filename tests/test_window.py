"""The sliding window against loops, and both backends' operations on images against the matrix equations."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from bounds import MAGNITUDES, assert_within, inputs
from numpy.typing import NDArray
from thread_counts import assert_same_bits, digest

from svd_numpy.kernels import available_backends, get_backend
from svd_numpy.kernels.backend import Buffers, NoiseKey
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.kernels.window import Window, col2im, im2col

Array = NDArray[Any]
PLAIN = ReferenceBackend(np.float64)
needs_numba = pytest.mark.skipif(bool(available_backends()["numba"]), reason="numba is not installed")
BACKENDS = ["numpy", pytest.param("numba", marks=needs_numba)]

# --- im2col and col2im ---

STRIDES = [(1, 1), (2, 2), (3, 3), (1, 2), (2, 1)]
PADDINGS = [(0, 0), (1, 1), (2, 2), (0, 2), (2, 1)]
DILATIONS = [(1, 1), (2, 2), (1, 3), (2, 1)]
SIZES = [(1, 1), (5, 5), (7, 4), (6, 9)]
KERNELS = [(1, 1), (2, 2), (3, 3), (5, 5), (4, 2), (1, 4), (3, 2), "image"]


def by_loops(x: Array, rows: Array, window: Window) -> tuple[Array, Array]:
    """What the window sees, and `rows` summed back to where it saw them: one pixel after the other."""
    (kh, kw), (sy, sx), (py, px), (dy, dx) = window[3:]
    height, width = x.shape[1:3]
    tops = range(-py, height + py - dy * (kh - 1), sy)  # the first pixel of every position
    lefts = range(-px, width + px - dx * (kw - 1), sx)
    assert window.out == (len(tops), len(lefts))
    seen = np.zeros((len(x), len(tops), len(lefts), kh, kw, window.channels))
    pieces, summed = rows.reshape(seen.shape), np.zeros(x.shape)
    for (oy, top), (ox, left) in product(enumerate(tops), enumerate(lefts)):
        for ky, kx in product(range(kh), range(kw)):
            at = top + ky * dy, left + kx * dx
            if 0 <= at[0] < height and 0 <= at[1] < width:
                seen[:, oy, ox, ky, kx] = x[:, *at]
                summed[:, *at] += pieces[:, oy, ox, ky, kx]
    return seen.reshape(-1, window.taps), summed


@pytest.mark.parametrize("kernel", KERNELS)
def test_im2col_and_its_transpose_against_loops(kernel: Any) -> None:
    rng = np.random.default_rng(0)
    checked = 0
    for (height, width), *geometry in product(SIZES, STRIDES, PADDINGS, DILATIONS):
        reach = (height, width) if kernel == "image" else kernel
        window = Window(height, width, int(rng.choice([1, 2, 5, 17])), reach, *geometry)
        spans = [d * (k - 1) + 1 for k, d in zip(reach, window.dilation, strict=True)]
        fits = spans[0] <= height + 2 * window.padding[0] and spans[1] <= width + 2 * window.padding[1]
        assert (min(window.out) >= 1) == fits, window
        if not fits:
            continue
        x = rng.integers(-9, 10, (rng.integers(1, 4), *window[:3])).astype(float)  # whole numbers: sums are exact
        seen = im2col(x, window)
        r = rng.integers(-9, 10, seen.shape).astype(float)
        summed = col2im(r, window)
        expected = by_loops(x, r, window)
        np.testing.assert_array_equal(seen, expected[0], err_msg=str(window))
        np.testing.assert_array_equal(summed, expected[1], err_msg=str(window))
        assert (seen * r).sum() == (x * summed).sum(), window
        checked += 1
    assert checked >= 90  # of 400


def test_a_window_of_one_pixel_only_reshapes() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 4, 2)).astype(np.float32)
    window, before = Window(5, 4, 2, (1, 1)), x.copy()
    rows = im2col(x, window)
    np.testing.assert_array_equal(rows, x.reshape(-1, 2))
    np.testing.assert_array_equal(col2im(rows, window), x)
    rows[...] = 7
    np.testing.assert_array_equal(x, before)  # the rows are a copy
    assert rows.dtype == col2im(rows, window).dtype == np.float32
    assert im2col(x, None) is x and col2im(x, None) is x


def test_taps_are_numbered_row_column_channel() -> None:
    x = np.arange(2 * 3 * 2.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(im2col(x, Window(2, 3, 2, (2, 2)))[0], [0, 1, 2, 3, 6, 7, 8, 9])
    np.testing.assert_array_equal(
        Window(1, 1, 1, (1, 1), padding=(1, 0)).pad(np.ones((1, 1, 1, 1)), 5.0).ravel(), [5, 1, 5]
    )


# --- The contract on images ---

# B, window, O: odd numbers of positions, every remainder of the vectors, sizes beyond one block.
CASES: dict[str, tuple[int, Window, int]] = {
    "one tap": (1, Window(5, 5, 1, (1, 1)), 1),
    "one position": (7, Window(4, 4, 5, (4, 4)), 50),
    "same size": (2, Window(7, 5, 3, (3, 3), padding=(1, 1)), 20),
    "padding 2": (7, Window(5, 5, 1, (5, 5), padding=(2, 2)), 3),
    "unequal": (2, Window(5, 9, 17, (2, 4), (2, 1), (1, 2)), 33),
    "dilated": (2, Window(11, 7, 5, (3, 2), dilation=(2, 3)), 70),
    "stride 2": (7, Window(9, 9, 16, (3, 3), (2, 2), (1, 1)), 130),
    "pixels between": (2, Window(10, 8, 3, (2, 2), (3, 3)), 20),  # which no window sees
    "more padding than kernel": (2, Window(3, 4, 2, (2, 2), padding=(3, 3)), 16),
    "even, dilated, strided, padded": (7, Window(8, 11, 2, (2, 2), (2, 3), (2, 1), (3, 2)), 33),
    "line": (2, Window(1, 17, 5, (1, 3), (1, 2)), 130),
    "channels": (2, Window(13, 13, 33, (1, 1)), 50),
    "many positions": (7, Window(28, 28, 1, (5, 5)), 20),
    "many taps": (1, Window(12, 12, 20, (5, 5)), 50),
    "dilated, same size": (2, Window(9, 8, 33, (3, 3), padding=(2, 2), dilation=(2, 2)), 40),
    "large weights": (3, Window(3, 2, 150, (3, 3), padding=(1, 1)), 150),
    "very many taps": (2, Window(5, 5, 130, (3, 3), padding=(1, 1)), 16),
}
KEEP = float(np.exp(-3))
KEY = NoiseKey(2**35 + 1, 2, 77, 13)
Problem = dict[str, Array]


def problem(case: str) -> Problem:
    """Arrays that are exact in float32, with a blank image, blank pixels and scattered zeros."""
    examples, window, n_out = CASES[case]
    rng = np.random.default_rng([examples, n_out, *window[:3]])
    x = rng.standard_normal((examples, *window[:3]))
    x *= rng.random(x.shape) < 0.8
    x[:, :2, : window.width // 2] *= window.height < 5
    x[examples // 2] *= examples == 1
    theta = rng.standard_normal((window.taps, n_out))
    log_sigma2, bias = rng.uniform(-8, 1, theta.shape), rng.standard_normal(n_out)
    dy = rng.standard_normal((examples, *window.out, n_out))
    made = {"x": x, "theta": theta, "log_sigma2": log_sigma2, "bias": bias, "dy": dy}
    made = {name: array.astype(np.float32).astype(np.float64) for name, array in made.items()}
    theta = made["theta"]
    for keep in (0.0, KEEP):  # nothing comes back from where rounding decides whether a ReLU is open
        y = np.empty(dy.shape)
        PLAIN.lrt_forward(made["x"], theta, made["log_sigma2"], made["bias"], keep, KEY, False, y, Buffers(), window)
        made["dy"][np.abs(y) < 1e-4] = 0
    return made


PARAMETERS = ("x", "theta", "log_sigma2", "bias")


def poison(backend: Any, memory: Buffers | None = None) -> None:
    """Fill every private buffer with NaN: what is read before it was written shows."""
    for array in [*vars(backend).values(), *([] if memory is None else memory._arrays.values())]:
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            array.fill(np.nan)


def lrt(
    backend: Any, case: str, made: Problem, keep: float = 0.0, relu: bool = False, want_dx: bool = True
) -> dict[str, Array]:
    window = CASES[case][1]
    x, theta, bias, dy = inputs(backend, *(made[name] for name in ("x", "theta", "bias", "dy")))
    log_sigma2 = made["log_sigma2"].astype(backend.dtype)
    before = [a.tobytes() for a in (x, theta, log_sigma2, bias)]
    memory, out = Buffers(), dict[str, Array]()
    for _ in range(2):  # the second time every private buffer is there already, and poisoned
        poison(backend, memory)
        out = {"y": dy, "d_theta": theta, "d_sigma2": theta, "d_bias": bias} | ({"dx": x} if want_dx else {})
        out = {name: np.full_like(like, np.nan) for name, like in out.items()}
        y, *d_weights = list(out.values())[:4]
        backend.lrt_forward(x, theta, log_sigma2, bias, keep, KEY, relu, y, memory, window)
        poison(backend)
        backend.lrt_backward(
            x, theta, log_sigma2, keep, dy.copy(), y if relu else None, *d_weights, out.get("dx"), memory, window
        )
    assert [a.tobytes() for a in (x, theta, log_sigma2, bias)] == before
    return out


def dense(backend: Any, case: str, made: Problem, want_dx: bool = True) -> dict[str, Array]:
    window = CASES[case][1]
    x, theta, bias, dy = inputs(backend, *(made[name] for name in ("x", "theta", "bias", "dy")))
    memory, out = Buffers(), dict[str, Array]()
    for _ in range(2):
        poison(backend, memory)
        out = {"y": dy, "d_theta": theta, "d_bias": bias} | ({"dx": x} if want_dx else {})
        out = {name: np.full_like(like, np.nan) for name, like in out.items()}
        backend.dense_forward(x, theta, bias, out["y"], memory, window)
        poison(backend)
        backend.dense_backward(
            x, theta, dy.copy(), out["d_theta"], out["d_bias"], out.get("dx"), memory, window
        )  # fmt: skip
    return out


def assert_close(got: dict[str, Array], expected: dict[str, Array], tolerance: float) -> None:
    """Compare arrays of the same names, each relative to its largest entry."""
    assert got.keys() == expected.keys()
    for name, array in got.items():
        a, b = array.astype(np.float64), expected[name]
        assert a.shape == b.shape and np.isfinite(a).all(), f"{name} holds numbers that are not finite"
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
        assert error < tolerance, f"{name} is off by {error:.1e} of its largest entry"


def equations(case: str, made: Problem, keep: float, relu: bool, noisy: bool) -> dict[str, Array]:
    """The contract's equations on rows made by loops."""
    window = CASES[case][1]
    x, theta, log_sigma2, bias, dy = (made[name] for name in (*PARAMETERS, "dy"))
    n_out, positions = theta.shape[1], window.out[0] * window.out[1]
    rows, _ = by_loops(x, np.zeros((len(x) * positions, window.taps)), window)
    sigma2, dy = np.exp(log_sigma2), dy.reshape(-1, n_out)
    masked = theta * (theta**2 >= keep * sigma2)
    noise = PLAIN.noise(KEY, len(x), positions * n_out).reshape(-1, n_out) * noisy
    std = np.sqrt(rows**2 @ sigma2)
    y = rows @ masked + bias + std * noise
    if relu:
        dy, y = dy * (y > 0), np.maximum(y, 0)
    d_var = dy * np.divide(noise, 2 * std, out=np.zeros_like(std), where=std > 0)
    d_rows = dy @ masked.T + 2 * rows * (d_var @ sigma2.T)
    result = {"y": y.reshape(made["dy"].shape), "d_theta": rows.T @ dy, "d_sigma2": (rows**2).T @ d_var}
    result |= {"d_bias": dy.sum(axis=0), "dx": by_loops(x, d_rows, window)[1]}
    return result if noisy else {name: array for name, array in result.items() if name != "d_sigma2"}


@pytest.mark.parametrize("case", [name for name, (b, w, _) in CASES.items() if b * w.out[0] * w.out[1] < 1000])
def test_the_reference_obeys_the_equations(case: str) -> None:
    made = problem(case)
    for keep, relu in ((0.0, True), (KEEP, False)):
        assert_close(lrt(PLAIN, case, made, keep, relu), equations(case, made, keep, relu, True), 1e-12)
    assert_close(dense(PLAIN, case, made), equations(case, made, 0.0, False, False), 1e-12)


@needs_numba
@pytest.mark.parametrize("case", CASES)
def test_numba_obeys_the_contract_with_the_same_bits_on_every_thread_count(case: str) -> None:
    fast, made = get_backend("numba"), problem(case)
    examples, window, n_out = CASES[case]
    positions, area = window.out[0] * window.out[1], window.kernel[0] * window.kernel[1]
    terms = max(examples * positions, window.taps, n_out * area)

    def outputs(backend: Any) -> list[Array]:
        settings = ((0.0, False), (KEEP, False), (KEEP, True))
        named = [*(lrt(backend, case, made, *setting) for setting in settings), dense(backend, case, made)]
        return [array for out in named for array in out.values()]

    expected, magnitudes = outputs(PLAIN), outputs(MAGNITUDES)

    def held() -> list[Array]:
        got = outputs(fast)
        assert_within(got, expected, magnitudes, terms)
        return got

    assert_same_bits(held)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["unequal", "pixels between", "line"])
def test_whoever_wants_no_dx_gets_the_same_rest(case: str, backend: str) -> None:
    fast, made = get_backend(backend), problem(case)
    for with_dx, without in (
        (lrt(fast, case, made, KEEP, True), lrt(fast, case, made, KEEP, True, want_dx=False)),
        (dense(fast, case, made), dense(fast, case, made, want_dx=False)),
    ):
        del with_dx["dx"]
        assert with_dx.keys() == without.keys() and digest(with_dx.values()) == digest(without.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_of_zeros_have_no_variance(backend: str) -> None:
    fast, made = get_backend(backend), problem("same size")
    made["x"] = 0 * made["x"]
    out = lrt(fast, "same size", made)
    np.testing.assert_array_equal(out["y"], np.broadcast_to(made["bias"].astype(np.float32), out["y"].shape))
    assert not out["d_theta"].any() and not out["d_sigma2"].any() and np.isfinite(out["dx"]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_memory_serves_batches_of_every_size(backend: str) -> None:
    fast, made, window = get_backend(backend), problem("stride 2"), CASES["stride 2"][1]
    x, theta, log_sigma2, bias = (made[name].astype(fast.dtype) for name in PARAMETERS)
    shared = Buffers()
    for examples in (7, 3, 5, 1, 7):
        few, dy, key = x[:examples], made["dy"][:examples].astype(fast.dtype), NoiseKey(3, 0, examples)
        outs = []
        for memory in (shared, Buffers()):
            y, dx, d_theta, d_sigma2, d_bias = (np.full_like(a, np.nan) for a in (dy, few, theta, theta, bias))
            fast.lrt_forward(few, theta, log_sigma2, bias, 0.0, key, False, y, memory, window)
            fast.lrt_backward(
                few, theta, log_sigma2, 0.0, dy.copy(), None, d_theta, d_sigma2, d_bias, dx, memory, window
            )
            outs.append((y, dx, d_theta, d_sigma2, d_bias))
        for got, expected in zip(*outs, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 7), (3, 4, 6), (17, 3, 2)])
def test_gathered_images_turn_channels_last(shape: tuple[int, int, int], dtype: Any, backend: str) -> None:
    fast, (channels, height, width) = get_backend(backend), shape
    rng = np.random.default_rng(channels)
    source = rng.integers(0, 256, (20, channels * height * width)).astype(dtype)
    index, mean = rng.integers(0, 20, 7), rng.standard_normal((source.shape[1],))
    out = np.full((7, height, width, channels), np.nan, fast.dtype)
    fast.gather_rows(source, index, 1 / 255, mean.astype(fast.dtype), out)
    expected = (source[index] / 255.0 - mean).reshape(7, *shape).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
