"""Pooling, batch normalisation and dropout: gradients, backends against each other, states, messages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from thread_counts import assert_same_bits

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.files import checkpoint
from svd_numpy.kernels.backend import Buffers, NoiseKey
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.kernels.window import Window
from svd_numpy.network.layers import Layer, layer_from_config
from svd_numpy.network.layers.base import Pass
from svd_numpy.train import loop as train

pytest.importorskip("numba")
from svd_numpy.kernels.cpu.backend import NumbaBackend

Array = NDArray[Any]
FAST, SINGLE, PLAIN = NumbaBackend(), ReferenceBackend(np.float32), ReferenceBackend(np.float64)
# H, W, C, kernel, stride, padding
WINDOWS = [
    Window(4, 4, 1, (2, 2), (2, 2)),
    Window(5, 7, 3, (2, 2), (2, 2)),
    Window(6, 6, 20, (3, 3), (2, 2), (1, 1)),
    Window(7, 5, 37, (3, 2), (1, 1), (1, 1)),
    Window(9, 8, 2, (2, 3), (3, 4), (1, 0)),
    Window(3, 3, 16, (3, 3), (1, 1)),
    Window(6, 4, 5, (1, 1), (2, 2)),
    Window(2, 2, 4, (4, 4), (2, 2), (2, 2)),
]
LAYERS = {
    "max": lambda: svd.MaxPool2d(2),
    "max, overlapping": lambda: svd.MaxPool2d(3, stride=2, padding=1),
    "max, oblong": lambda: svd.MaxPool2d((2, 3), stride=(1, 2), padding=(1, 0)),
    "mean": lambda: svd.AvgPool2d(2),
    "mean, overlapping": lambda: svd.AvgPool2d((3, 2), stride=(2, 1), padding=1),
    "mean, inside": lambda: svd.AvgPool2d(3, stride=2, padding=(1, 0), count_include_pad=False),
    "norm": lambda: svd.BatchNorm(3),
    "norm, plain": lambda: svd.BatchNorm(3, momentum=None, affine=False),
    "padded with zeros": lambda: svd.Pad2d((1, 0, 2, 1)),
    "padded around": lambda: svd.Pad2d((1, 3, 2, 0), "circular"),
    "mirrored": lambda: svd.Pad2d(3, "reflect"),
    "continued": lambda: svd.Pad2d((0, 9, 1, 2), "replicate"),
    "dropout": lambda: svd.Dropout(0.3),
    "gaussian": lambda: svd.GaussianDropout(0.3),
}


def built(layer: Layer, shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> Layer:
    """Set up a layer on its own, its parameters away from their start."""
    layer.name = "layer"
    _, specs = layer.build(shape, np.random.default_rng(0))
    rng = np.random.default_rng(seed)
    views = {s.name: (s.start + 0.3 * rng.standard_normal(s.shape)).astype(dtype) for s in specs}
    layer.bind(views, {name: np.full_like(view, np.nan) for name, view in views.items()})
    return layer


def numbers(*shape: int, seed: int = 0, backend: Any = PLAIN) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(backend.dtype)


# ---- finite differences


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [(kind, shape) for kind in LAYERS for shape in [(5, 7, 3), (4, 6, 3)]]
    + [(kind, (3,)) for kind in ("norm", "norm, plain", "dropout", "gaussian")],
)
def test_gradients_are_those_of_finite_differences(kind: str, shape: tuple[int, ...], training: bool) -> None:
    layer = built(LAYERS[kind](), shape)
    run = Pass(PLAIN, "sample", seed=3, step=5, training=training)
    rng = np.random.default_rng(1)
    x = rng.permutation(4 * math.prod(shape)).reshape(4, *shape) / 10.0  # no two are close: no maximum changes
    weights = rng.standard_normal(layer.forward(x.copy(), run).shape)

    def loss() -> float:
        return float((weights * np.tanh(layer.forward(x.copy(), run))).sum())

    y = layer.forward(x.copy(), run)
    dx = layer.backward(weights / np.cosh(y) ** 2, run, True)
    assert dx is not None and dx.shape == x.shape
    pairs = [(x, dx.copy())]
    if isinstance(layer, svd.BatchNorm) and layer.affine:
        pairs += [(layer.gamma, layer.d_gamma.copy()), (layer.beta, layer.d_beta.copy())]
    for array, gradient in pairs:
        for at in np.ndindex(array.shape):
            start, h = array[at], 1e-6
            array[at] = start + h
            above = loss()
            array[at] = start - h
            numeric = (above - loss()) / (2 * h)
            array[at] = start
            assert gradient[at] == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def network(backend: str = "numpy", dtype: Any = "float32", first: tuple[Layer, ...] = ()) -> svd.Sequential:
    layers = (
        svd.BatchNorm(2), svd.ReLU(), svd.MaxPool2d(2), svd.Dropout(0.2), svd.AvgPool2d(3, stride=2, padding=1),
        svd.GaussianDropout(0.1), svd.Flatten(), svd.BatchNorm(2 * 2 * 2), svd.VariationalDense(8, 3),
    )  # fmt: skip
    return svd.Sequential(*first, *layers, backend=backend, dtype=dtype, input_shape=(2, 8, 8))


def test_a_whole_network() -> None:
    """Every gradient of the public loss, along a random direction; and twice the same loss, changing nothing."""
    model = network("numpy", "float64", (svd.VariationalConv2d(2, 2, 3, padding=1),))
    rng = np.random.default_rng(0)
    for name, array in model.parameters.items():
        array += 0.2 * rng.standard_normal(array.shape) if not name.endswith("sigma2") else 7.0
    x, y = numbers(6, 2, 8, 8), np.arange(6) % 3
    before = {name: array.copy() for name, array in model.arrays().items()}
    loss, grads = model.loss_and_grads(x, y, 50, step=4)
    assert model.loss(x, y, 50, step=4) == loss != model.loss(x, y, 50, step=5)
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)
    for name, array in model.parameters.items():
        direction, start = rng.standard_normal(array.shape), array.copy()
        losses = []
        for h in (1e-5, -1e-5):
            array[...] = start + h * direction
            losses.append(model.loss(x, y, 50, step=4))
        array[...] = start
        numeric = (losses[0] - losses[1]) / 2e-5
        assert (grads[name] * direction).sum() == pytest.approx(numeric, rel=1e-5, abs=1e-7), name


# ---- pooling


def pooled(backend: Any, window: Window, images: int, kind: str) -> tuple[Array, ...]:
    """Run forward and backward into memory full of NaN."""
    x = numbers(images, window.height, window.width, window.channels, backend=backend)
    x[: images // 2] = np.round(x[: images // 2])  # ties
    dy = numbers(images, *window.out, window.channels, seed=1, backend=backend)
    y, dx, chosen = np.full_like(dy, np.nan), np.full_like(x, np.nan), np.full(dy.shape, -7, np.int32)
    if kind == "max":
        backend.max_pool_forward(x, window, y, chosen)
        backend.max_pool_backward(dy, chosen, window, dx)
    else:
        backend.avg_pool_forward(x, window, y)
        backend.avg_pool_backward(dy, window, dx)
    return y, dx, chosen


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("window", WINDOWS)
def test_pooling_on_both_backends(window: Window, kind: str, threads: int) -> None:
    for images in (1, 5):
        fast, plain = pooled(FAST, window, images, kind), pooled(PLAIN, window, images, kind)
        np.testing.assert_allclose(fast[0], plain[0], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(fast[1], plain[1], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(fast[2], plain[2])


@pytest.mark.parametrize("backend", [FAST, PLAIN])
def test_pooling_by_hand(backend: Any) -> None:
    x = np.array([[1, 2, 5], [4, 3, 5], [0, -1, -2]], backend.dtype).reshape(1, 3, 3, 1)
    run = Pass(backend)
    largest, mean = (built(layer, (3, 3, 1)) for layer in (svd.MaxPool2d(2), svd.AvgPool2d(2, stride=1, padding=1)))
    assert largest.forward(x, run).ravel().tolist() == [4]  # the last row and column are left over
    expected = [[0.25, 0.75, 1.75, 1.25], [1.25, 2.5, 3.75, 2.5], [1, 1.5, 1.25, 0.75], [0, -0.25, -0.75, -0.5]]
    np.testing.assert_allclose(mean.forward(x, run)[0, :, :, 0], expected, rtol=1e-6)
    inside = built(svd.AvgPool2d(2, stride=1, padding=1, count_include_pad=False), (3, 3, 1))
    shares = np.outer([1, 2, 2, 1], [1, 2, 2, 1]) / 4
    np.testing.assert_allclose(inside.forward(x, run)[0, :, :, 0], expected / shares, rtol=1e-6)
    below = built(svd.MaxPool2d(2, padding=1), (3, 3, 1)).forward(-1 - abs(x), run)
    assert below.ravel().tolist() == [-2, -3, -1, -2]  # the padding is never the largest


@pytest.mark.parametrize("backend", [FAST, PLAIN])
def test_the_first_of_equal_pixels_gets_the_gradient(backend: Any) -> None:
    x = np.array([[7, 7, 1, 2], [7, 7, 2, 2]], backend.dtype).reshape(1, 2, 4, 1)
    layer, run = built(svd.MaxPool2d(2), (2, 4, 1)), Pass(backend)
    layer.forward(x, run)
    dx = layer.backward(np.array([3, 5], backend.dtype).reshape(1, 1, 2, 1), run, True)
    assert dx is not None and dx[0, :, :, 0].tolist() == [[3, 0, 0, 5], [0, 0, 0, 0]]
    assert layer.backward(np.zeros((1, 1, 2, 1)), run, False) is None


@pytest.mark.parametrize("backend", [FAST, PLAIN])
def test_no_maximum_hides_a_nan(backend: Any) -> None:
    for at in range(4):
        x = np.arange(4, dtype=backend.dtype)
        x[at] = np.nan
        assert np.isnan(built(svd.MaxPool2d(2), (2, 2, 1)).forward(x.reshape(1, 2, 2, 1), Pass(backend))).all()


@pytest.mark.parametrize("window", WINDOWS)
def test_pooling_is_that_of_torch(window: Window) -> None:
    torch = pytest.importorskip("torch")
    x = numbers(3, window.height, window.width, window.channels)
    for layer, pool in (
        (svd.MaxPool2d, torch.nn.functional.max_pool2d),
        (svd.AvgPool2d, torch.nn.functional.avg_pool2d),
    ):
        ours = built(layer(window.kernel, window.stride, window.padding), x.shape[1:])
        leaf = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        theirs = pool(leaf, window.kernel, window.stride, window.padding)
        y = ours.forward(x, Pass(PLAIN))
        np.testing.assert_allclose(y, theirs.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-12)
        dy = numbers(*y.shape, seed=1)
        theirs.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
        dx = ours.backward(dy, Pass(PLAIN), True)
        np.testing.assert_allclose(dx, leaf.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-14)


# ---- batch normalisation


def normed(backend: Any, shape: tuple[int, ...], of_batch: bool, want_dx: bool = True) -> tuple[Array, ...]:
    x, dy = (3 + 2 * numbers(*shape, backend=backend)), numbers(*shape, seed=1, backend=backend)
    gamma, beta = 1 + numbers(shape[-1], seed=2, backend=backend), numbers(shape[-1], seed=3, backend=backend)
    mean, var, memory = np.full(shape[-1], 2.5), np.full(shape[-1], 3.0), Buffers()
    if of_batch:
        backend.batch_moments(x, mean, var, memory)
    y, d_gamma, d_beta = np.full_like(x, np.nan), np.full_like(gamma, np.nan), np.full_like(beta, np.nan)
    backend.batch_norm_forward(x, mean, var, 1e-3, gamma, beta, y)
    dx = np.full_like(x, np.nan) if want_dx else None
    backend.batch_norm_backward(x, mean, var, 1e-3, gamma, of_batch, dy, d_gamma, d_beta, dx, memory)
    return (mean, var, y, d_gamma, d_beta, *([dx] if dx is not None else []))


@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("shape", [(2, 1), (7, 3), (100, 300), (3, 5, 4, 1), (5, 7, 6, 20), (33, 8, 8, 37), (2, 700)])
def test_batch_norm_on_both_backends(shape: tuple[int, ...], of_batch: bool, threads: int) -> None:
    for want_dx in (True, False):
        for fast, plain in zip(
            normed(FAST, shape, of_batch, want_dx), normed(PLAIN, shape, of_batch, want_dx), strict=True
        ):
            np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(plain).max()))


def test_the_same_bits_on_any_number_of_threads() -> None:
    def job() -> tuple[Array, ...]:
        factors = np.empty((2, 9, 130), np.float32)
        FAST.dropout_factors(NoiseKey(1, 2, 3), 0.3, factors[0])
        FAST.gaussian_factors(NoiseKey(1, 2, 3), 0.7, factors[1])
        return *normed(FAST, (33, 8, 8, 20), True), *pooled(FAST, WINDOWS[2], 7, "max"), factors

    assert_same_bits(job)


@pytest.mark.parametrize("backend", [FAST, SINGLE, PLAIN])
def test_channels_far_from_zero(backend: Any) -> None:
    """The variance is not lost beside a mean a thousand times larger than the spread."""
    x = (1000 + numbers(500, 4)).astype(backend.dtype)
    layer = built(svd.BatchNorm(4), (4,), backend.dtype)
    layer.gamma[:], layer.beta[:] = 1, 0
    y = layer.forward(x, Pass(backend, training=True)).astype(np.float64)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-3)


@pytest.mark.parametrize("backend", [FAST, PLAIN])
@pytest.mark.parametrize("shape", [(20, 3), (4, 5, 6, 3)])
def test_statistics_and_their_running_averages(backend: Any, shape: tuple[int, ...]) -> None:
    layer = built(svd.BatchNorm(3, momentum=0.2), shape[1:], backend.dtype)
    mean, var = np.zeros(3), np.ones(3)
    run = Pass(backend, training=True, learn=True)
    for seed in range(4):
        x = 2 + 3 * numbers(*shape, seed=seed, backend=backend)
        rows = x.reshape(-1, 3).astype(np.float64)
        expected = layer.gamma * (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-5) + layer.beta
        np.testing.assert_allclose(layer.forward(x, run).reshape(-1, 3), expected, rtol=1e-4, atol=1e-5)
        layer.backward(np.ones_like(x), run, False)
        mean = 0.8 * mean + 0.2 * rows.mean(axis=0)
        var = 0.8 * var + 0.2 * rows.var(axis=0, ddof=1)
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5)
        np.testing.assert_allclose(layer.running_var, var, rtol=1e-5)
    still = Pass(backend, training=True)
    layer.backward(layer.forward(x, still).copy(), still, True)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5)
    expected = layer.gamma * (rows - mean) / np.sqrt(var + 1e-5) + layer.beta
    np.testing.assert_allclose(layer.forward(x, Pass(backend, "mean")).reshape(-1, 3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 4), (3, 5, 6, 4)])
def test_batch_norm_is_that_of_torch(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    layer = built(svd.BatchNorm(4, momentum=0.3), shape[1:])
    theirs = torch.nn.BatchNorm2d(4, momentum=0.3, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight[:], theirs.bias[:] = torch.tensor(layer.gamma), torch.tensor(layer.beta)

    def first(array: Array) -> Any:
        return torch.tensor(array.reshape(len(array), -1, 4).transpose(0, 2, 1)[..., None])

    run = Pass(PLAIN, training=True, learn=True)
    for seed in range(3):
        x, dy = 1 + numbers(*shape, seed=seed), numbers(*shape, seed=seed + 9)
        leaf = first(x).requires_grad_()
        theirs.zero_grad()
        out = theirs(leaf)
        out.backward(first(dy))
        np.testing.assert_allclose(first(layer.forward(x, run)), out.detach(), rtol=1e-10)
        dx = layer.backward(dy.copy(), run, True)
        assert dx is not None
        np.testing.assert_allclose(first(dx), leaf.grad, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(layer.d_gamma, theirs.weight.grad, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(layer.d_beta, theirs.bias.grad, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean, theirs.running_mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, theirs.running_var, rtol=1e-12)
    theirs.eval()
    np.testing.assert_allclose(first(layer.forward(x, Pass(PLAIN, "mean"))), theirs(first(x)).detach(), rtol=1e-10)


# ---- running averages are part of the model


def pictures() -> Dataset:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 66)
    x = rng.normal(size=(66, 2, 8, 8)).astype(np.float32)
    x[:, 0, :4] += y[:, None, None] + 3
    return Dataset("pictures", x[:46].reshape(46, -1), y[:46], x[46:].reshape(20, -1), y[46:], None, 3, "made here")


CONFIG = svd.TrainConfig(epochs=2, batch_size=20, lr=0.01, finetune_epochs=1, finetune_threshold=0.0)
STATE = {f"batch_norm{n}.running_{what}" for n in (1, 2) for what in ("mean", "var")}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_saving_copying_and_starting_from_a_model_keep_its_averages(tmp_path: Path, backend: str) -> None:
    model, data = network(backend), pictures()
    start = {name: array.copy() for name, array in model.state.items()}
    assert set(start) == STATE and not STATE & set(model.parameters)
    svd.fit(model, data, CONFIG, progress=False)
    assert all(not np.array_equal(model.state[name], start[name]) for name in STATE)
    model.save(tmp_path / "model.safetensors")
    others = [
        model.copy(), svd.Sequential.load(tmp_path / "model.safetensors", backend), network(backend).init_from(model),
        svd.sparsify(model, model.threshold),
    ]  # fmt: skip
    outputs = model.predict(data.x_test)
    for other in others:
        for name in STATE:
            assert other.state[name].tobytes() == model.state[name].tobytes()
            assert other.state[name] is not model.state[name]
        np.testing.assert_array_equal(other.predict(data.x_test), outputs)
    np.testing.assert_allclose(model.copy("numpy", "float64").predict(data.x_test), outputs, rtol=1e-3, atol=1e-3)
    shares = {name: array for name, array in model.arrays().items() if not name.endswith("2.running_var")}
    with pytest.raises(ValueError, match=r"expected .*batch_norm2\.running_var"):
        model.load_arrays(shares)
    with pytest.raises(ValueError, match=r"expected \[0, inf\]"):
        model.init_from({"batch_norm1.running_var": -np.ones(2)})


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_resuming_after_any_epoch_gives_the_same_bits(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    whole = network(backend)
    svd.fit(whole, pictures(), CONFIG, progress=False)

    def fail(_: Any, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        svd.fit(network(backend), pictures(), CONFIG, [fail], tmp_path, progress=False)
    assert set(checkpoint.load(tmp_path / "checkpoints").arrays) >= STATE
    resumed = network(backend)
    svd.fit(resumed, pictures(), CONFIG, run_dir=tmp_path, resume=True, progress=False)
    for name, array in whole.arrays().items():
        assert resumed.arrays()[name].tobytes() == array.tobytes(), name


def test_only_training_steps_move_the_averages() -> None:
    model, data = network(), pictures()
    before = {name: array.copy() for name, array in model.state.items()}
    model.predict(data.x_test)
    model.sample(data.x_test, 2)
    model.loss_and_grads(data.x_test, data.y_test, 46)
    assert all(np.array_equal(array, before[name]) for name, array in model.state.items())
    trainer = train.Trainer(model, data, CONFIG)
    trainer.step()
    moved = {name: array.copy() for name, array in model.state.items()}
    assert all(not np.array_equal(moved[name], before[name]) for name in STATE)
    model.parameters["dense1.bias"][:] = np.nan
    with pytest.raises(ValueError, match="the loss is nan"):
        trainer.step()
    assert all(np.array_equal(array, moved[name]) for name, array in model.state.items())  # a lost step teaches nothing


# ---- configurations and messages


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_can_be_made_again_from_its_config(kind: str) -> None:
    config = LAYERS[kind]().config()
    assert layer_from_config(config).config() == config


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: svd.MaxPool2d(2, padding=2), ValueError, r"padding: got \(2, 2\), expected at most half"),
        (lambda: svd.AvgPool2d((4, 2), padding=(2, 2)), ValueError, r"kernel_size \(4, 2\)"),
        (lambda: svd.MaxPool2d(0), ValueError, "kernel_size: got 0"),
        (lambda: svd.MaxPool2d(2, stride=0), ValueError, "stride: got 0"),
        (lambda: svd.AvgPool2d(2.5), TypeError, "kernel_size: got 2.5"),
        (lambda: svd.BatchNorm(0), ValueError, "num_features: got 0"),
        (lambda: svd.BatchNorm(3, eps=0), ValueError, "eps: got 0"),
        (lambda: svd.BatchNorm(3, momentum=1.5), ValueError, "momentum: got 1.5"),
        (lambda: svd.Dropout(1.0), ValueError, "p: got 1.0"),
        (lambda: svd.Dropout(-0.1), ValueError, "p: got -0.1"),
        (lambda: svd.GaussianDropout("half"), TypeError, "p: got 'half'"),
        (lambda: svd.Sequential(svd.Dense(4, 3), svd.MaxPool2d(2, name="pool")), ValueError,
         r"layer 'pool': got inputs of shape \(B, 3\), expected images \(B, C, H, W\)"),
        (lambda: svd.Sequential(svd.AvgPool2d(5), input_shape=(2, 4, 9)), ValueError,
         r"layer 'avg_pool1': a kernel of \(5, 5\).*larger than images of 4 x 9"),
        (lambda: svd.Sequential(svd.BatchNorm(3), input_shape=(2, 4, 9)), ValueError,
         r"'batch_norm1': got inputs of shape \(B, 2, 4, 9\), that is 2 channels, expected 3; use BatchNorm\(2\)"),
        (lambda: svd.Sequential(svd.Dense(4, 3), svd.BatchNorm(4)), ValueError, "that is 3 features, expected 4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_one_number_per_channel_has_no_variance() -> None:
    model = svd.Sequential(svd.Dense(4, 3), svd.BatchNorm(3, name="norm"), backend="numpy")
    x = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match=r"layer 'norm': got a batch of shape \(1, 3\).*choose a batch_size"):
        model.loss(x, np.array([1]), 10)
    assert np.isfinite(model.predict(x)).all()
    assert np.isfinite(network().loss(numbers(2, 2, 8, 8), np.array([1, 2]), 10))
