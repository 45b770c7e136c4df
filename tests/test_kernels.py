"""The Numba backend against the plain one, operation by operation."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from bounds import MAGNITUDES, assert_close, assert_within, inputs
from numpy.typing import NDArray
from thread_counts import assert_same_bits

from svd_numpy.kernels.backend import AdamSettings, Buffers, NoiseKey, StepSettings
from svd_numpy.kernels.priors import PRIORS
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.network.params import Arena, ParamSpec

numba = pytest.importorskip("numba")
from svd_numpy.kernels.cpu.backend import NumbaBackend  # noqa: E402  (it needs Numba)

Array = NDArray[Any]
FAST, PLAIN = NumbaBackend(), ReferenceBackend(np.float64)
ALL = FAST, PLAIN, MAGNITUDES
# B, I, O: every remainder of the vectors and tiles, and sizes beyond one block (I > 1024, O > 256, B > 1024).
SHAPES = [
    (1, 1, 1), (1, 3, 17), (7, 33, 65), (12, 65, 33), (13, 17, 3), (24, 16, 32), (100, 64, 10), (2, 129, 127),
    (3, 1030, 5), (5, 7, 300), (1030, 9, 11), (2, 2100, 33), (4, 3, 1025), (1025, 1025, 257),
]  # fmt: skip
PRIOR_NAMES = sorted(PRIORS)


def poison(backend: Any, memory: Buffers | None = None) -> None:
    """Fill every private buffer with NaN: what is read before it was written shows."""
    arrays = [*vars(backend).values(), *([] if memory is None else memory._arrays.values())]
    for array in arrays:
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            array.fill(np.nan)


def unwritten(backend: Any, *shape: int) -> Array:
    return np.full(shape, np.nan, backend.dtype)


# --- The contract, operation by operation ---


def lrt(
    backend: Any, shape: tuple[int, int, int], keep: float, want_dx: bool, sparse: bool = False, relu: bool = False
) -> tuple[Array, ...]:
    rows, n_in, n_out = shape
    rng = np.random.default_rng(shape)
    x, theta, dy = (rng.standard_normal(s) for s in ((rows, n_in), (n_in, n_out), (rows, n_out)))
    log_sigma2, bias = rng.uniform(-8, 1, theta.shape), rng.standard_normal(n_out)
    x[rows // 2, :] = 0 if rows > 1 else x[0]  # an example of zeros: no variance
    x[:, n_in // 2 : n_in // 2 + 5] *= n_in < 10  # inputs that are 0 in the whole batch
    if sparse:  # what is 0 in a whole register tile is left out: scattered zeros, empty rows, empty columns
        x *= rng.random(x.shape) < 0.1
        x[:20], x[:, :3], x[:, 40:60] = 0, 0, 0
        dy *= rng.random(dy.shape) < 0.1
        dy[20:40], dy[:, :3] = 0, 0
    x, theta, bias, dy = inputs(backend, x, theta, bias, dy)
    log_sigma2 = log_sigma2.astype(np.float32).astype(backend.dtype)
    memory, key = Buffers(), NoiseKey(2**35 + 1, 2, 77, 13)
    outputs: tuple[Array, ...] = ()
    for _ in range(2):  # the second time every private buffer is there already, and poisoned
        poison(backend, memory)
        y = unwritten(backend, rows, n_out)
        backend.lrt_forward(x, theta, log_sigma2, bias, keep, key, relu, y, memory)
        d_theta, d_sigma2 = unwritten(backend, n_in, n_out), unwritten(backend, n_in, n_out)
        d_bias, dx = unwritten(backend, n_out), unwritten(backend, rows, n_in) if want_dx else None
        rectified = y if relu else None
        backend.lrt_backward(x, theta, log_sigma2, keep, dy.copy(), rectified, d_theta, d_sigma2, d_bias, dx, memory)
        outputs = (y, d_theta, d_sigma2, d_bias, *([] if dx is None else [dx]))
    return outputs


def dense(backend: Any, shape: tuple[int, int, int], want_dx: bool) -> tuple[Array, ...]:
    rows, n_in, n_out = shape
    rng = np.random.default_rng(shape)
    sizes = (rows, n_in), (n_in, n_out), (n_out,), (rows, n_out)
    x, theta, bias, dy = inputs(backend, *(rng.standard_normal(s) for s in sizes))
    poison(backend)
    y, d_theta, d_bias = (
        unwritten(backend, rows, n_out),
        unwritten(backend, n_in, n_out),
        unwritten(backend, n_out),
    )
    dx = unwritten(backend, rows, n_in) if want_dx else None
    backend.dense_forward(x, theta, bias, y, Buffers())
    poison(backend)
    backend.dense_backward(x, theta, dy.copy(), d_theta, d_bias, dx, Buffers())
    return (y, d_theta, d_bias, *([] if dx is None else [dx]))


@pytest.mark.parametrize("shape", SHAPES)
def test_lrt(shape: tuple[int, int, int], threads: int) -> None:
    for keep, want_dx, relu in (
        (0.0, True, False),
        (float(np.exp(-3)), True, False),
        (0.0, False, False),
        (0.0, True, True),
    ):
        assert_within(*(lrt(backend, shape, keep, want_dx, relu=relu) for backend in ALL), max(shape))


@pytest.mark.parametrize("shape", [(100, 784, 300), (61, 100, 70), (45, 1100, 20)])
def test_lrt_on_mostly_zeros(shape: tuple[int, int, int], threads: int) -> None:
    assert_within(*(lrt(backend, shape, 0.05, True, sparse=True) for backend in ALL), max(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_dense(shape: tuple[int, int, int], threads: int) -> None:
    for want_dx in (True, False):
        assert_within(*(dense(backend, shape, want_dx) for backend in ALL), max(shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize(("rows", "units"), [(1, 1), (7, 33), (100, 784), (1030, 17)])
def test_gather_rows(dtype: Any, rows: int, units: int, threads: int) -> None:
    rng = np.random.default_rng(rows)
    source = rng.integers(0, 256, (50, units)).astype(dtype)
    index = rng.integers(0, 50, rows)
    mean = rng.standard_normal(units)
    outs = []
    for backend in (FAST, PLAIN):
        outs.append(unwritten(backend, rows, units))
        backend.gather_rows(source, index, 1 / 255, mean.astype(backend.dtype), outs[-1])
    assert_close((outs[0],), (outs[1],))


@pytest.mark.parametrize("size", [(1, 1), (1, 15), (7, 33), (1030, 257)])
def test_relu(size: tuple[int, int], threads: int) -> None:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal(size).astype(np.float32), rng.standard_normal(size).astype(np.float32)
    x[rng.random(size) < 0.2] = 0
    y, d = x.copy(), dy.copy()
    FAST.relu_forward(y)
    np.testing.assert_array_equal(y, np.where(x > 0, x, 0))
    FAST.relu_backward(y, d)
    np.testing.assert_array_equal(d, np.where(x > 0, dy, 0))


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 10), (100, 10), (13, 33), (5, 1000), (1030, 3)])
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_softmax_cross_entropy(rows: int, classes: int, scale: float) -> None:
    rng = np.random.default_rng(rows)
    logits = (scale * rng.standard_normal((rows, classes))).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    d_fast, d_plain = unwritten(FAST, rows, classes), unwritten(PLAIN, rows, classes)
    fast = FAST.softmax_cross_entropy(logits, labels, d_fast)
    plain = PLAIN.softmax_cross_entropy(logits.astype(np.float64), labels, d_plain)
    assert fast[1] == plain[1]
    assert fast[0] == pytest.approx(plain[0], rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(d_fast, d_plain, atol=1e-6 / rows)


@pytest.mark.parametrize("backend", [FAST, ReferenceBackend(np.float32), PLAIN])
def test_softmax_of_extreme_logits_is_finite(backend: Any) -> None:
    logits = np.array([[1e30, -1e30, 0], [-1e30, -1e30, -1e30], [88, 89, 1e4], [0, 0, 0]], backend.dtype)
    d_logits = unwritten(backend, 4, 3)
    nll, wrong = backend.softmax_cross_entropy(logits, np.array([1, 0, 2, 2]), d_logits)
    assert nll == pytest.approx(2e30, rel=1e-6)
    assert wrong == 2
    expected = np.array([[1, -1, 0], [1 / 3 - 1, 1 / 3, 1 / 3], [0, 0, 0], [1 / 3, 1 / 3, 1 / 3 - 1]]) / 4
    np.testing.assert_allclose(d_logits, expected, atol=1e-6)


def test_of_many_equal_logits_the_first_is_predicted() -> None:
    logits, labels = np.zeros((3, 64), np.float32), np.array([0, 3, 63])
    logits[1, [3, 40]] = 1e30
    nll, wrong = FAST.softmax_cross_entropy(logits, labels, unwritten(FAST, 3, 64))
    assert wrong == 1 and nll == pytest.approx(2 * np.log(64) + np.log(2), rel=1e-5)
    logits[0] = np.nan
    assert not np.isfinite(FAST.softmax_cross_entropy(logits, labels, unwritten(FAST, 3, 64))[0])


def test_gaussian_nll() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 13, 3)).astype(np.float32)
    d_fast, d_plain = unwritten(FAST, 13, 3), unwritten(PLAIN, 13, 3)
    fast = FAST.gaussian_nll(prediction, target, 0.3, d_fast)
    plain = PLAIN.gaussian_nll(prediction.astype(np.float64), target.astype(np.float64), 0.3, d_plain)
    assert fast == pytest.approx(plain, rel=1e-6)
    assert_close((d_fast,), (d_plain,))
    from scipy.stats import norm

    assert plain[0] == pytest.approx(-norm.logpdf(target, prediction.astype(np.float64), 0.3).sum(), rel=1e-6)


def arena_of(n_weights: int, n_plain: int, dtype: Any, prior: str = "ard", seed: int = 0) -> Arena:
    """An arena whose weights are cut in two segments, the second with bounds and a factor of its own."""
    rng = np.random.default_rng([n_weights, n_plain, seed])
    theta, log_sigma2 = rng.standard_normal(n_weights), rng.uniform(-8, 1, n_weights)
    theta[::7] *= 1e-2
    theta, log_sigma2 = theta.astype(np.float32), log_sigma2.astype(np.float32)
    cut = n_weights - n_weights // 3
    specs = [
        ParamSpec("a.theta", (cut,), theta[:cut], log_sigma2[:cut]),
        ParamSpec("a.bias", (n_plain,), rng.standard_normal(n_plain).astype(np.float32)),
        ParamSpec("b.theta", (n_weights - cut,), theta[cut:], log_sigma2[cut:], low=-8, high=1, lr_factor=0.1),
        ParamSpec("b.scale", (n_plain,), rng.uniform(0.1, 0.9, n_plain), low=0, high=1, lr_factor=3),
    ]
    return Arena(specs, dtype, prior)


@pytest.mark.parametrize(("n_weights", "n_plain"), [(1, 0), (17, 3), (1023, 0), (1025, 33), (5000, 7), (0, 40)])
@pytest.mark.parametrize("prior", PRIOR_NAMES)
def test_sweeps(n_weights: int, n_plain: int, prior: str, threads: int) -> None:
    for keep, fixed in ((0.0, False), (float(np.exp(-3)), False), (0.0, True)):
        fast, plain = (arena_of(n_weights, n_plain, backend.dtype, prior) for backend in (FAST, PLAIN))
        for arena in (fast, plain):
            variances = {name: arena.views[name].copy() for name in ("a.log_sigma2", "b.log_sigma2")}
            for name in ("a.theta", "b.theta", "b.scale"):
                arena.hold(name, np.arange(arena.views[name].size) % 5 > 0)
            for (
                name,
                values,
            ) in variances.items():  # where a mean is 0 and a variance the lowest, a step is all rounding
                arena.views[name][...] = values
        start = fast.params.copy()
        for step in range(1, 5):
            gradient = np.random.default_rng(step).standard_normal(fast.params.size).astype(np.float32)
            fast.grads[:], plain.grads[:] = gradient, gradient
            if step == 1 and not fixed:
                FAST.finish_gradients(fast, 0.01, keep)
                PLAIN.finish_gradients(plain, 0.01, keep)
                assert_close((fast.grads,), (plain.grads,))
                fast.grads[:], plain.grads[:] = gradient, gradient
            settings = StepSettings(0.01, keep, AdamSettings(0.01, 0.9, 0.999, 1e-8, step))
            poison(FAST)
            FAST.adam_step(fast, settings, fixed)
            PLAIN.adam_step(plain, settings, fixed)
        assert_close((fast.params, fast.m, fast.v), (plain.params, plain.m, plain.v))
        scales = fast.views["b.scale"]
        assert scales.size == 0 or 0 <= scales.min() <= scales.max() <= 1
        assert not fixed or not fast.views["a.theta"][::5].any()
        held = fast.mask == 0
        assert held.any() == (n_weights > 0 or n_plain > 0)
        if fixed:
            np.testing.assert_array_equal(fast.params[held], start[held])
        elif n_weights and keep == 0:
            assert (fast.views["a.theta"][::5] != 0).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere subnormals cost little")
def test_the_sweep_takes_subnormals_as_zero_and_nobody_else_does() -> None:
    arena = arena_of(40, 5, FAST.dtype)
    smallest, start = np.finfo(np.float32).tiny, arena.params.copy()
    arena.m[:], arena.v[:], arena.grads[:] = smallest, smallest, smallest / 100
    FAST.adam_step(arena, StepSettings(0.0, 0.0, AdamSettings(0.01, 0.9, 0.999, 1e-8, 1)), False)
    for moments in (arena.m, arena.v):
        assert np.isin(moments, (0, smallest)).all()  # what lies between two arrays stays as it was
        assert np.mean(moments == 0) > 0.5
    np.testing.assert_array_equal(arena.params, start)
    assert smallest * np.float32(0.5) > 0


@pytest.mark.parametrize("backend", [FAST, PLAIN])
def test_log_sigma2_is_projected(backend: Any) -> None:
    arena = arena_of(51, 2, backend.dtype)
    for name, (low, high) in {"a.log_sigma2": (-20, 10), "b.log_sigma2": (-8, 1)}.items():
        arena.views[name][:9], arena.views[name][9:] = low + 0.01, high - 0.01
        arena.grad_views[name][:9], arena.grad_views[name][9:] = 1e6, -1e6
    backend.adam_step(arena, StepSettings(0.0, 0.0, AdamSettings(1.0, 0.9, 0.999, 1e-8, 1)), False)
    np.testing.assert_array_equal(arena.views["a.log_sigma2"], [-20] * 9 + [10] * 25)
    np.testing.assert_array_equal(arena.views["b.log_sigma2"], [-8] * 9 + [1] * 8)


@pytest.mark.parametrize("backend", [FAST, PLAIN])
def test_a_masked_matrix_has_zeros(backend: Any) -> None:
    rng = np.random.default_rng(0)
    theta, mask = rng.standard_normal((7, 5)).astype(backend.dtype), rng.integers(0, 2, (7, 5), np.uint8)
    out = unwritten(backend, 7, 5)
    backend.apply_mask(theta, mask, out)
    np.testing.assert_array_equal(out, np.where(mask == 1, theta, 0))


def gate(backend: Any, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Both operations of a gate on activations (B, ..., U), the second in place, as layers call it."""
    rng = np.random.default_rng(shape)
    x, dy, z = inputs(backend, *(rng.standard_normal(s) for s in (shape, shape, shape[-1])))
    y, d_z = unwritten(backend, *shape), unwritten(backend, shape[0], shape[-1])
    backend.gate_forward(x, z, y)
    backend.gate_backward(x, z, dy, d_z, dy)
    return y, d_z, dy


def weight_pulls(backend: Any, shape: tuple[int, int]) -> list[Array]:
    """What a layer tells about its inputs: without noise, and with it."""
    rng = np.random.default_rng(shape)
    arrays = [rng.standard_normal(shape) for _ in range(4)]
    arrays[2] = np.abs(arrays[2])  # so that magnitudes have the same log_sigma2
    theta, d_theta, log_sigma2, d_sigma2 = inputs(backend, *arrays)
    plain, noisy = unwritten(backend, shape[0]), unwritten(backend, shape[0])
    backend.weight_pulls(theta, d_theta, None, None, plain)
    backend.weight_pulls(theta, d_theta, log_sigma2, d_sigma2, noisy)
    return [plain, noisy]


PULLED = [(1, 1), (3, 64), (7, 65), (5, 300), (20, 129), (2, 2500)]


@pytest.mark.parametrize("shape", PULLED)
def test_weight_pulls(shape: tuple[int, int], threads: int) -> None:
    found = (weight_pulls(backend, shape) for backend in (FAST, PLAIN, MAGNITUDES))
    assert_within(*found, terms=2 * shape[1])


GATED = [(1, 1), (7, 33), (5, 3, 17), (3, 4, 5, 20), (2, 1, 9, 65)]


@pytest.mark.parametrize("shape", GATED)
def test_gates(shape: tuple[int, ...], threads: int) -> None:
    assert_close(gate(FAST, shape), gate(PLAIN, shape))
    rng = np.random.default_rng(shape)
    x, dy, z = inputs(PLAIN, *(rng.standard_normal(s) for s in (shape, shape, shape[-1])))
    expected = x * z, (x * dy).sum(axis=tuple(range(1, len(shape) - 1))), dy * z
    assert_close(gate(PLAIN, shape), expected)


@pytest.mark.parametrize("prior", PRIOR_NAMES)
def test_kl_sum(prior: str) -> None:
    arena = arena_of(2777, 0, np.float32)
    theta, log_sigma2 = arena.views["a.theta"].reshape(1, -1), arena.views["a.log_sigma2"].reshape(1, -1)
    expected = PLAIN.kl(theta.astype(np.float64), log_sigma2.astype(np.float64), prior)
    assert FAST.kl(theta, log_sigma2, prior) == pytest.approx(expected, rel=1e-5)


# --- The same bits whatever the threads ---


@pytest.mark.parametrize("shape", [(13, 33, 65), (100, 130, 300)])
def test_layers_have_the_same_bits_on_any_number_of_threads(shape: tuple[int, int, int]) -> None:
    assert_same_bits(lambda: (*lrt(FAST, shape, 0.05, True), *dense(FAST, shape, True)))
