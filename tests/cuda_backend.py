"""The CUDA backend against the plain one. Not collected by itself: `test_cuda.py` runs it in Numba's simulator.

On a machine with a device, `pytest tests/cuda_backend.py` runs it there.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np
import pytest
import test_gather_images
import test_image_layers
import test_kernels
import test_padding
from bounds import MAGNITUDES, assert_close, assert_within, inputs
from numpy.typing import NDArray
from small_runs import make_config, make_data, make_net, timeless

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import AdamSettings, Buffers, NoiseKey, StepSettings
from svd_numpy.kernels.cuda import detect, tiling
from svd_numpy.kernels.padding import MODES, Padding
from svd_numpy.kernels.priors import PRIORS
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.kernels.window import Window
from svd_numpy.network.params import Arena, ParamSpec
from svd_numpy.train.runner import make_runner
from svd_numpy.train.trainer import Trainer

if reason := detect.why_not():
    pytest.skip(reason, allow_module_level=True)
from svd_numpy.kernels.cuda.backend import CudaBackend
from svd_numpy.kernels.cuda.device import SIMULATED

sys.setswitchinterval(1e-4)  # seconds: threads of the simulator wait for each other all the time
# In the simulator a kernel is Python, in which a float32 that overflows warns.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
Array = NDArray[Any]
PLAIN = ReferenceBackend(np.float64)


class Mirrored:
    """A backend whose operations take what the host holds, and give it back."""

    name, dtype = "cuda", np.dtype(np.float32)

    def __init__(self) -> None:
        self._backend: Any = CudaBackend()

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._backend, name)

        def run(*args: Any, **options: Any) -> Any:
            arrays = [array for arg in (*args, *options.values()) for array in _arrays(arg)]
            self._backend.to_device(*arrays)
            result = operation(*args, **options)
            later = [array for arg in (*args, *options.values()) for array in _arrays(arg)]
            self._backend.to_host(*(array for array in later if array.flags.writeable))
            return result

        return run


def _arrays(arg: Any) -> list[Array]:
    if isinstance(arg, Arena):
        return [arg.params, arg.grads, arg.m, arg.v, arg.mask]
    if isinstance(arg, Buffers):
        return list(arg._arrays.values())
    return [arg] if isinstance(arg, np.ndarray) else []


CUDA = Mirrored()
ALL = CUDA, PLAIN, MAGNITUDES
SHAPES = [(1, 1, 1), (7, 13, 3), (5, 5, 66)]


# --- The contract, operation by operation ---


@pytest.mark.parametrize("shape", SHAPES)
def test_lrt(shape: tuple[int, int, int]) -> None:
    keep, relu = (0.0, False) if shape[2] == 3 else (math.exp(-3), True)
    assert_within(*(test_kernels.lrt(backend, shape, keep, True, relu=relu) for backend in ALL), max(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_dense(shape: tuple[int, int, int]) -> None:
    assert_within(*(test_kernels.dense(backend, shape, True) for backend in ALL), max(shape))


def test_products_cut_in_slices_and_in_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (5, 19, 66)
    expected = [test_kernels.lrt(backend, shape, 0.05, True, relu=True) for backend in (PLAIN, MAGNITUDES)]
    monkeypatch.setattr(tiling, "SHORTEST", 9)
    assert tiling.plan(5, 66, 19).slices > 1
    assert_within(test_kernels.lrt(CUDA, shape, 0.05, True, relu=True), *expected, max(shape))
    monkeypatch.setattr(tiling, "ENOUGH_BLOCKS", 1)
    assert tiling.plan(5, 66, 19).tile == "large"
    assert_within(test_kernels.lrt(CUDA, shape, 0.05, True, relu=True), *expected, max(shape))


GEOMETRY = [
    Window(4, 5, 2, (3, 3), (1, 1), (1, 1)),
    Window(5, 4, 3, (2, 3), (2, 1), (0, 2), (2, 1)),
    Window(3, 3, 1, (2, 2), (1, 3), (3, 2)),  # windows that see the padding alone
]


@pytest.mark.parametrize("window", GEOMETRY)
def test_convolutions(window: Window) -> None:
    rng = np.random.default_rng(1)
    images, n_out, positions = 2, 3, window.out
    x, theta = rng.standard_normal((images, *window[:3])), rng.standard_normal((window.taps, n_out))
    log_sigma2, bias = rng.uniform(-6, 1, theta.shape), rng.standard_normal(n_out)
    slope, key = rng.standard_normal((images, *positions, n_out)), NoiseKey(2**33 + 5, 1, 7, 3)
    results = []
    for backend in ALL:
        a, t, b, dy = inputs(backend, x, theta, bias, slope)
        s = log_sigma2.astype(np.float32).astype(backend.dtype)
        outs = [np.full(shape, np.nan, backend.dtype) for shape in (dy.shape, t.shape, t.shape, b.shape, a.shape)]
        y, d_theta, d_sigma2, d_bias, dx = outs
        memory = Buffers()
        backend.lrt_forward(a, t, s, b, 0.05, key, True, y, memory, window)
        backend.lrt_backward(a, t, s, 0.05, dy.copy(), y, d_theta, d_sigma2, d_bias, dx, memory, window)
        plain = [np.full_like(out, np.nan) for out in (y, d_theta, d_bias, dx)]
        backend.dense_forward(a, t, b, plain[0], memory, window)
        backend.dense_backward(a, t, dy.copy(), *plain[1:], memory, window)
        results.append((*outs, *plain))
    assert_within(*results, max(images * math.prod(positions), window.taps, n_out))


def test_noise_and_factors() -> None:
    key = NoiseKey(2**40 + 3, 2, 2**32 - 1, 11)
    np.testing.assert_allclose(CUDA.noise(key, 3, 131), PLAIN.noise(key, 3, 131), atol=2e-6)
    for p in (0.3, 0.999):
        dropped = [np.full((3, 67), np.nan, backend.dtype) for backend in (CUDA, PLAIN)]
        CUDA.dropout_factors(key, p, dropped[0])
        PLAIN.dropout_factors(key, p, dropped[1])
        assert_close((dropped[0],), (dropped[1],))
    factors = [np.full((2, 67), np.nan, backend.dtype) for backend in (CUDA, PLAIN)]
    CUDA.gaussian_factors(key, 0.7, factors[0])
    PLAIN.gaussian_factors(key, 0.7, factors[1])
    assert_close((factors[0],), (factors[1],))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 2), (1, 1, 5)])
def test_gathering(dtype: Any, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (9, math.prod(shape))).astype(dtype)
    index, mean = rng.integers(0, 9, 6), rng.standard_normal(source.shape[1])
    moves = np.column_stack([rng.integers(-2, 3, (6, 2)), rng.integers(0, 2, 6)]).astype(np.int32)
    for move in (None, moves):
        got, expected = (
            test_gather_images.gather(backend, source, index, 1 / 255, mean, shape, move) for backend in (CUDA, PLAIN)
        )
        assert_close((got,), (expected,))
    rows = np.full((6, source.shape[1]), np.nan, np.float32)
    CUDA.gather_rows(source, index, 1 / 255, mean.astype(np.float32), rows)
    np.testing.assert_allclose(rows, source[index] / 255 - mean, rtol=1e-5, atol=1e-6)
    tokens, out = source.astype(np.int64) + 2**40, np.zeros((6, source.shape[1]), np.int64)
    CUDA.gather_rows(tokens, index, 1.0, mean.astype(np.float32), out)
    np.testing.assert_array_equal(out, tokens[index])


def test_losses() -> None:
    rng = np.random.default_rng(0)
    logits = np.vstack([rng.standard_normal((5, 4)), [[1e30, -1e30, 0, 0], [3, 3, 3, 3]]]).astype(np.float32)
    labels, slopes = np.array([0, 1, 2, 3, 0, 1, 0]), [np.full((7, 4), np.nan, b.dtype) for b in (CUDA, PLAIN)]
    got = CUDA.softmax_cross_entropy(logits, labels, slopes[0])
    expected = PLAIN.softmax_cross_entropy(logits.astype(np.float64), labels, slopes[1])
    assert got[1] == expected[1]
    assert got[0] == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-6)
    prediction, target = rng.standard_normal((2, 7, 3)).astype(np.float32)
    slopes = [np.full((7, 3), np.nan, b.dtype) for b in (CUDA, PLAIN)]
    got = CUDA.gaussian_nll(prediction, target, 0.3, slopes[0])
    expected = PLAIN.gaussian_nll(prediction.astype(np.float64), target.astype(np.float64), 0.3, slopes[1])
    assert got == pytest.approx(expected, rel=1e-6)
    assert_close((slopes[0],), (slopes[1],))


@pytest.mark.parametrize("shape", [(7, 33), (3, 2, 5, 4)])
def test_gates(shape: tuple[int, ...]) -> None:
    assert_close(test_kernels.gate(CUDA, shape), test_kernels.gate(PLAIN, shape))


@pytest.mark.parametrize("shape", test_kernels.PULLED)
def test_weight_pulls(shape: tuple[int, int]) -> None:
    found = (test_kernels.weight_pulls(backend, shape) for backend in (CUDA, PLAIN, MAGNITUDES))
    assert_within(*found, terms=2 * shape[1])


def arena_of(prior: str, dtype: Any) -> Arena:
    """Weights of two priors, one group slower and in narrow bounds; ordinary numbers, some of them bounded."""
    rng = np.random.default_rng(0)

    def numbers(count: int) -> Array:
        return rng.standard_normal(count).astype(np.float32)

    specs = [
        ParamSpec("a.theta", (45,), numbers(45), numbers(45) * 3 - 3),
        ParamSpec("a.bias", (3,), numbers(3)),
        ParamSpec("b.theta", (3, 2), numbers(6).reshape(3, 2), numbers(6).reshape(3, 2), "ard", -0.5, 0.5, 3.0),
        ParamSpec("b.scale", (5,), numbers(5), low=-0.1, high=0.7, lr_factor=0.1),
    ]
    arena = Arena(specs, dtype, prior)
    arena.params[:45:5] = 0
    arena.mask[:] = rng.random(arena.mask.size) < 0.7
    return arena


@pytest.mark.parametrize("prior", sorted(PRIORS))
def test_the_sweep(prior: str) -> None:
    for keep, held in ((math.exp(-3), False), (0.0, True)):
        mine, theirs = (arena_of(prior, backend.dtype) for backend in (CUDA, PLAIN))
        assert len(mine.segments) == 4
        mine.params[1] = theirs.params[1] = 1e10  # beyond the cap on theta^2 / sigma^2
        for step in (1, 2):
            gradient = np.random.default_rng(step).standard_normal(mine.params.size).astype(np.float32)
            settings = StepSettings(0.01, keep, AdamSettings(0.01, 0.9, 0.999, 1e-8, step))
            for backend, arena in ((CUDA, mine), (PLAIN, theirs)):
                arena.grads[:] = gradient
                if step == 1 and not held:
                    backend.finish_gradients(arena, 0.01, keep)
            assert_close((mine.grads,), (theirs.grads,))
            for backend, arena in ((CUDA, mine), (PLAIN, theirs)):
                arena.grads[:] = gradient
                backend.adam_step(arena, settings, held)
        mine.params[1] = theirs.params[1] = 0
        assert_close((mine.params, mine.m, mine.v), (theirs.params, theirs.m, theirs.v))
        weights = [[arena.views[f"a.{part}"] for part in ("theta", "log_sigma2")] for arena in (mine, theirs)]
        weights[0][0][3] = weights[1][0][3] = 1e15
        assert CUDA.kl(*weights[0], prior) == pytest.approx(PLAIN.kl(*weights[1], prior), rel=1e-5)


def test_a_prior_without_a_branch_is_refused() -> None:
    arena, backend = arena_of("ard", np.float32), CudaBackend()
    arena.segments = tuple(segment._replace(prior=segment.prior and "cauchy") for segment in arena.segments)
    before = arena.params.copy()
    settings = StepSettings(0.01, 0.0, AdamSettings(0.01, 0.9, 0.999, 1e-8, 1))
    for operation in (
        lambda: backend.finish_gradients(arena, 0.01, 0.0),
        lambda: backend.adam_step(arena, settings, False),
        lambda: backend.kl(arena.params[:5], arena.params[5:10], "cauchy"),
    ):
        with pytest.raises(svd.SvdError, match=r"got 'cauchy', but backend 'cuda' knows \('log_uniform', "):
            operation()
    backend.to_host(arena.params)
    np.testing.assert_array_equal(arena.params, before)


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("window", [*test_image_layers.WINDOWS[4:8:2], Window(4, 3, 2, (3, 2), (2, 1), (1, 1))])
def test_pooling(window: Window, kind: str) -> None:
    got, expected = (test_image_layers.pooled(backend, window, 1, kind) for backend in (CUDA, PLAIN))
    assert_close(got, expected)


@pytest.mark.parametrize("mode", MODES)
def test_paddings(mode: str) -> None:
    padding = Padding(3, 2, (2, 1, 1, 0), mode)
    got, expected = (test_padding.padded(backend, padding, 2, 3) for backend in (CUDA, PLAIN))
    assert_close(got, expected)


def test_no_maximum_hides_a_nan() -> None:
    test_image_layers.test_no_maximum_hides_a_nan(CUDA)
    y = np.array([np.nan, -1, 2], np.float32)
    CUDA.relu_forward(y)
    np.testing.assert_array_equal(y, [np.nan, 0, 2])


@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("shape", [(23, 3), (2, 3, 2, 5)])
def test_batch_norm(shape: tuple[int, ...], of_batch: bool) -> None:
    got, expected = (test_image_layers.normed(backend, shape, of_batch) for backend in (CUDA, PLAIN))
    assert_close(got, expected)


def test_small_things() -> None:
    rng = np.random.default_rng(0)
    x, factors = rng.standard_normal((2, 13)).astype(np.float32)
    y, dy, running, batch = np.empty_like(x), x.copy(), factors.astype(np.float64), rng.standard_normal(13)
    CUDA.multiply(x, factors, y)
    np.testing.assert_array_equal(y, x * factors)
    CUDA.relu_backward(factors, dy)
    np.testing.assert_array_equal(dy, x * (factors > 0))
    average, batches = running.copy(), np.full(13, 2.0)
    CUDA.average(average, batch, batches, 1, 1.5)
    np.testing.assert_allclose(average, (2 * running + 1.5 * batch) / 3, rtol=1e-12)
    assert (batches == 3).all()
    CUDA.blend(running, batch, 0.25, 1.5)
    np.testing.assert_allclose(running, 0.75 * factors + 0.25 * 1.5 * batch, rtol=1e-5, atol=1e-6)
    wide = np.zeros((2, 3, 5), np.float32)
    CUDA.copy_columns(x[:12].reshape(2, 3, 2).copy(), 1, wide, 3, 1)
    np.testing.assert_array_equal(wide[..., 3], x[:12].reshape(2, 3, 2)[..., 1])
    assert not wide[..., :3].any() and not wide[..., 4].any()
    CUDA.clear(y)
    assert not y.any()
    mask = rng.integers(0, 2, 13).astype(np.uint8)
    CUDA.apply_mask(x, mask, y)
    np.testing.assert_array_equal(y, x * mask)


@pytest.mark.skipif(not SIMULATED, reason="on a device threads share memory by themselves")
def test_threads_share_an_array_however_they_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the simulator threads take turns at any time, for instance while one of them makes the array."""
    empty = np.empty

    def slowly(*args: Any, **options: Any) -> Array:
        time.sleep(1e-3)
        return empty(*args, **options)

    logits, labels = np.zeros((8, 3), np.float32), np.arange(8) % 3
    monkeypatch.setattr(np, "empty", slowly)
    total, wrong = CUDA.softmax_cross_entropy(logits, labels, np.zeros_like(logits))
    assert total == pytest.approx(8 * math.log(3)) and wrong == 5


# --- Twins ---


def test_host_and_device_meet_only_when_told() -> None:
    backend = CudaBackend()
    whole = np.arange(12, dtype=np.float32).reshape(4, 3)
    backend.relu_forward(whole[1:])  # the first meeting takes all of it over
    whole[:] = -1
    backend.to_host(whole[:2])
    np.testing.assert_array_equal(whole, [[0, 1, 2], [3, 4, 5], [-1, -1, -1], [-1, -1, -1]])
    backend.to_device(whole[2:])
    backend.to_host(whole)
    np.testing.assert_array_equal(whole[2:], -1)
    with pytest.raises(ValueError, match="C-contiguous"):
        backend.relu_forward(whole[:, :2])


def test_a_twin_goes_with_its_array() -> None:
    backend = CudaBackend()
    for _ in range(3):
        backend.relu_forward(np.ones(5, np.float32))
    assert len(backend._twins._places) == 0


# --- Whole networks ---


def test_gradients_of_a_network() -> None:
    layers = svd.VariationalDense(4, 3, log_sigma2=-3.0), svd.ReLU(), svd.VariationalDense(3, 2, log_sigma2=-3.0)
    model = svd.Sequential(*layers, backend="cuda")
    x, y = np.random.default_rng(0).standard_normal((3, 4)), np.array([0, 1, 1])
    assert svd.gradcheck(model, x, y).ok


def train(backend: str) -> tuple[Any, Any, Any]:
    config = make_config(epochs=2, batch_size=8, finetune_epochs=1, kl_schedule=((0.5, 0.0), (1.0, 1.0)))
    data, model = make_data(n_train=20, n_test=6), make_net(backend)
    records = svd.fit(model, data, config, progress=False)
    return model, timeless(records), model.predict(data.x_test)


def test_training_retraces_the_plain_backend() -> None:
    (model, records, predicted), (oracle, expected, wanted) = train("cuda"), train("numpy")
    for name, array in model.arrays().items():
        np.testing.assert_allclose(array, oracle.arrays()[name], rtol=2e-3, atol=2e-4, err_msg=name)
    for record, other in zip(records, expected, strict=True):
        assert record["nll"] == pytest.approx(other["nll"], rel=1e-4)
        assert record["kl"] == pytest.approx(other["kl"], rel=1e-4)
    np.testing.assert_allclose(predicted, wanted, rtol=2e-3, atol=2e-4)


def image_net(backend: str) -> svd.Sequential:
    layers = (
        svd.VariationalConv2d(2, 3, 3, padding=1, bias=False), svd.BatchNorm(3), svd.ReLU(), svd.MaxPool2d(2),
        svd.Dropout(0.2), svd.Flatten(), svd.VariationalDense(12, 2),
    )  # fmt: skip
    return svd.Sequential(*layers, backend=backend, input_shape=(2, 4, 4))


def grouped_net(backend: str) -> svd.Sequential:
    layers = (
        svd.BatchNorm(2, momentum=None, affine=False), svd.Pad2d(1, "circular"),
        svd.VariationalConv2d(2, 4, 3, stride=2, groups=2), svd.ReLU(), svd.Conv2d(4, 2, 1, groups=2, bias=False),
        svd.AvgPool2d(2, 1, padding=1, count_include_pad=False), svd.Flatten(), svd.VariationalDense(18, 2),
    )  # fmt: skip
    return svd.Sequential(*layers, backend=backend, input_shape=(2, 4, 4))


def sequence_net(backend: str) -> svd.Sequential:
    return svd.Sequential(svd.VariationalDense(2, 2), backend=backend, input_shape=(3, 2))


def flat_net(backend: str) -> svd.Sequential:
    return svd.Sequential(svd.VariationalDense(32, 2), backend=backend)


@pytest.mark.parametrize("make", [image_net, grouped_net, flat_net, sequence_net])
def test_three_steps_are_those_of_the_plain_backend(make: Any) -> None:
    rng, images = np.random.default_rng(0), make is not sequence_net
    x = rng.integers(0, 256, (8, 32 if images else 6), dtype=np.uint8)
    y = np.arange(8) % 2 if images else rng.integers(0, 2, (8, 3))  # of a sequence, one for each step
    shape = {flat_net: (1, 4, 8), sequence_net: None}.get(make, (2, 4, 4))
    data = Dataset("own", x, y, x[:3], y[:3], shape, 2, "made here")
    models, found = [], []
    for backend in ("cuda", "numpy"):
        trainer = Trainer(make(backend), data, make_config(epochs=1, batch_size=3, shift=int(images), mirror=images))
        runner: Any = make_runner([trainer])
        while trainer.progress.step < 3:  # one as it is, one recorded, one short of an example
            runner.advance(3 - trainer.progress.step)
        assert backend == "numpy" or runner.recordings[False] is not None
        runner.sync()
        models.append(trainer.model)
        found.append([trainer.progress.nll_sum, trainer.progress.error_sum, *runner.scores()[0]["test"].values()])
    for name, array in models[0].arrays().items():
        np.testing.assert_allclose(array, models[1].arrays()[name], rtol=2e-3, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    assert make in (flat_net, sequence_net) or models[0].state["batch_norm1.running_mean"].any()


# --- Recurrent networks ---


def sequences(backend: Any, cell: str, padded: bool) -> list[Array]:
    """Everything that an LSTM or a GRU writes on its way there and back."""
    rng, (batch, steps, units) = np.random.default_rng(3), (2, 4, 3)
    parts = {"lstm": 4, "gru": 3}[cell]
    gates, w = rng.standard_normal((batch, steps, parts * units)), rng.standard_normal((units, parts * units))
    state, dy = rng.standard_normal((parts - 2, batch, units)), rng.standard_normal((batch, steps, units))
    inner = rng.standard_normal(units)
    gates, w, state, dy, inner = inputs(backend, gates, w, state, dy, inner)
    present = np.array([[0, 0, 1, 1], [1, 0, 1, 1]], np.uint8) if padded else None
    y, d_w, d_bias, d_inner = (
        np.full(shape, np.nan, backend.dtype) for shape in (dy.shape, w.shape, w.shape[1:], units)
    )
    memory, ops = Buffers(), operations(backend)
    if cell == "lstm":
        ops.lstm_forward(gates, w, state, present, y, memory)
        ops.lstm_backward(gates, w, present, dy, d_w, d_bias, memory)
        d_inner[:] = 0
    else:
        ops.gru_forward(gates, w, inner, state, present, y, memory)
        ops.gru_backward(gates, w, present, dy, d_w, d_bias, d_inner, memory)
    return [y, state, gates, d_w, d_bias, d_inner]


def operations(backend: Any) -> Any:
    return backend if backend is CUDA else backend.recurrence


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_sequences(cell: str, padded: bool) -> None:
    for got, expected in zip(sequences(CUDA, cell, padded), sequences(PLAIN, cell, padded), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_are_sampled_and_rows_of_tables() -> None:
    rng, found = np.random.default_rng(0), []
    theta, log_sigma2, dy = rng.standard_normal((5, 3)), rng.uniform(-4, 1, (5, 3)), rng.standard_normal((7, 3))
    tokens, bias = np.array([1, 4, 1, 0, 4, 1, 2]), rng.standard_normal(3)
    for backend in (CUDA, PLAIN):
        t, s, d, b = inputs(backend, theta, log_sigma2, dy, bias)
        w, d_sigma2, d_table = (np.full((5, 3), np.nan, backend.dtype) for _ in range(3))
        y, other, memory, ops = np.full_like(d, np.nan), np.full_like(d, np.nan), Buffers(), operations(backend)
        ops.sample_weights(t, s, math.exp(-1), NoiseKey(2**33 + 5, 1, 7), None, w, memory)
        ops.sample_weights_backward(t, d_sigma2, memory)
        ops.take_rows(w, tokens, b, y)
        ops.take_rows(w, tokens, None, other)
        ops.take_rows_backward(tokens, d, d_table)
        found.append([w, d_sigma2, y, other, d_table])
    for got, expected in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("most", [1e9, 0.5])
def test_long_gradients_are_shortened(most: float) -> None:
    arenas = [arena_of("ard", backend.dtype) for backend in (CUDA, PLAIN)]
    for backend, arena in zip((CUDA, PLAIN), arenas, strict=True):
        arena.grads[:] = np.random.default_rng(4).standard_normal(arena.grads.size)
        backend.clip_gradients(arena, most)
    np.testing.assert_allclose(arenas[0].grads, arenas[1].grads, rtol=1e-5, atol=1e-7)
    assert (np.abs(arenas[0].grads).max() < 0.5) == (most < 1)


def letters_net(backend: str) -> svd.Sequential:
    layers = svd.VariationalLSTM("ab ", 3, tokens=True, log_sigma2=-3), svd.VariationalDense(3, 3, log_sigma2=-3)
    return svd.Sequential(*layers, backend=backend, input_shape=(3,))


def words_net(backend: str) -> svd.Sequential:
    layers = (
        svd.VariationalEmbedding(4, 2, padding=0, groups=("words",)),
        svd.VariationalGRU(2, 3, groups=("gates", "units")), svd.LSTM(3, 2, every_step=False), svd.Dense(2, 2),
    )  # fmt: skip
    return svd.Sequential(*layers, backend=backend, input_shape=(3,))


def plain_words_net(backend: str) -> svd.Sequential:
    return svd.Sequential(
        svd.Embedding(4, 2, padding=0),
        svd.GRU(2, 3, every_step=False),
        svd.Dense(3, 2),
        backend=backend,
        input_shape=(3,),
    )


@pytest.mark.parametrize("make", [letters_net, words_net, plain_words_net])
def test_steps_of_recurrent_networks_are_those_of_the_plain_backend(make: Any) -> None:
    """With states that are carried on and begin anew, padding, groups and gradients that are shortened."""
    if make is letters_net:
        data, batch = svd.text_dataset("ab ba ab  " * 15, 2, 3), 2
    else:
        x = np.random.default_rng(0).integers(0, 4, (5, 3))
        data, batch = Dataset("own", x, x[:, 0] % 2, x[:3], x[:3, 1] % 2, None, 2, "made here"), 2
    models, found = [], []
    for backend in ("cuda", "numpy"):
        config = make_config(epochs=2, batch_size=batch, clip_norm=0.05, kl_schedule=((0.0, 1.0),))
        trainer = Trainer(make(backend), data, config)
        trainer.progress.step = max(0, trainer.steps_per_epoch - 2)  # over the end of an epoch
        runner: Any = make_runner([trainer])
        end = trainer.progress.step + 4
        while trainer.progress.step < end:
            runner.advance(end - trainer.progress.step)
        runner.sync()
        models.append(trainer)
        scores = runner.scores()[0]["test"].values()
        found.append([trainer.progress.nll_sum, trainer.progress.error_sum, *scores])
    for name, array in models[0].arrays().items():
        np.testing.assert_allclose(array, models[1].arrays()[name], rtol=2e-3, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    predicted = [trainer.model.predict(data.x_test[:3]) for trainer in models]
    np.testing.assert_allclose(predicted[0], predicted[1], rtol=2e-3, atol=2e-4)


def test_signs_of_sequences_are_refused() -> None:
    layers = svd.VariationalLSTM(4, 3, tokens=True, noise="sequence"), svd.Dense(3, 4)
    model = svd.Sequential(*layers, backend="cuda", input_shape=(3,))
    with pytest.raises(svd.SvdValueError, match="noise='sequence' is not on the backend 'cuda' yet"):
        model.loss_and_grads(np.zeros((2, 3), np.int64), np.zeros((2, 3), np.int64), 10)
