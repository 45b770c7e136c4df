"""Convolutional layers in a model: values, gradients, noise, pruning, files, training, and shapes that do not fit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_runs import bits, run_log, timeless
from test_gradients import BACKENDS, DTYPE, assert_ok, directional_error, scatter
from test_resume import stop_after

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.priors import PRIORS
from svd_numpy.network.layers.base import Pass
from svd_numpy.train import loop as train
from svd_numpy.train.trainer import Trainer

Array = NDArray[Any]
SHAPE = (2, 8, 7)


def conv_net(backend: str = "numpy", plain: bool = False, fresh: bool = False, **options: Any) -> svd.Sequential:
    """Two convolutions of unequal geometry and a dense layer, on images of 2 x 8 x 7."""
    conv, dense = (svd.Conv2d, svd.Dense) if plain else (svd.VariationalConv2d, svd.VariationalDense)
    layers = (
        conv(2, 5, 3, padding=1), svd.ReLU(), conv(5, 4, (3, 2), stride=(2, 1), dilation=(1, 2), bias=False),
        svd.ReLU(), svd.Flatten(), dense(4 * 3 * 5, 3),
    )  # fmt: skip
    options = {"dtype": DTYPE[backend], "input_shape": SHAPE, **options}
    model = svd.Sequential(*layers, backend=backend, **options)
    return model if fresh else scatter(model)


def images(n: int = 7, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, *shape))


def stripes(n_train: int = 110, n_test: int = 40) -> Dataset:
    """Images of 2 x 8 x 7 pixels: stripes that lie, stand or lean, at any place; the second channel is noise."""
    rng = np.random.default_rng(3)
    n = n_train + n_test
    y = rng.integers(0, 3, n)
    down, across = np.mgrid[:8, :7]
    phase = np.array([down, across, down + across])[y] + rng.integers(0, 3, (n, 1, 1))
    first = 200.0 * (phase % 3 == 0) + rng.uniform(0, 55, (n, 8, 7))
    x = np.stack([first, rng.uniform(0, 255, (n, 8, 7))], axis=1).reshape(n, -1).astype(np.uint8)
    return Dataset("stripes", x[:n_train], y[:n_train], x[n_train:], y[n_train:], SHAPE, 3, "made here")


def correlate(x: Array, theta: Array, stride: Any, padding: Any, dilation: Any) -> Array:
    """Cross-correlation of images (B, C, H, W) with theta (KH, KW, C, O), position by position: (B, O, OH, OW)."""
    (sy, sx), (py, px), (dy, dx) = stride, padding, dilation
    kh, kw = theta.shape[:2]
    x = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    tops = range(0, x.shape[2] - dy * (kh - 1), sy)
    lefts = range(0, x.shape[3] - dx * (kw - 1), sx)
    y = np.zeros((len(x), theta.shape[3], len(tops), len(lefts)))
    for (oy, top), (ox, left) in product(enumerate(tops), enumerate(lefts)):
        patch = x[:, :, top : top + dy * (kh - 1) + 1 : dy, left : left + dx * (kw - 1) + 1 : dx]
        y[:, :, oy, ox] = np.einsum("bchw,hwco->bo", patch, theta)
    return y


def rows_of(y: Array) -> Array:
    """Images (B, C, H, W) as Flatten lays them out."""
    return y.transpose(0, 2, 3, 1).reshape(len(y), -1)


# --- Values ---

GEOMETRY: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (2, 4), "stride": (3, 1), "padding": (0, 2)},
    {"kernel_size": (3, 2), "stride": 2, "padding": (2, 1), "dilation": (2, 3)},
    {"kernel_size": (8, 7)},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
def test_a_convolution_position_by_position(geometry: dict[str, Any], backend: str) -> None:
    x, mean = images(), images(1, seed=1)[0]
    options: dict[str, Any] = {"backend": backend, "dtype": DTYPE[backend], "input_shape": SHAPE, "input_mean": mean}
    for kind in (svd.Conv2d, svd.VariationalConv2d):
        layer = kind(2, 5, **geometry)
        model = scatter(svd.Sequential(layer, svd.Flatten(), **options))
        theta, bias = (model.parameters[f"conv1.{part}"].astype(np.float64) for part in ("theta", "bias"))
        assert theta.shape == (*layer.kernel_size, 2, 5)
        if kind is svd.VariationalConv2d:
            pruned = svd.log_alpha(model)["conv1"].reshape(theta.shape) > 3
            assert 0 < pruned.sum() < pruned.size
            theta[pruned] = 0
        y = correlate(x - mean, theta, layer.stride, layer.padding, layer.dilation) + bias[:, None, None]
        tolerance = 1e-12 if backend == "numpy" else 1e-5
        np.testing.assert_allclose(model.predict(x), rows_of(y), rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(model.predict(x.reshape(7, -1)), model.predict(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_uint8_images_of_any_memory_order(backend: str) -> None:
    model = conv_net(backend, input_mean=np.full(SHAPE, 0.25))
    x = np.random.default_rng(0).integers(0, 256, (9, *SHAPE), dtype=np.uint8)
    expected = model.predict(x)
    np.testing.assert_allclose(model.predict(x / 255.0), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.predict(np.asfortranarray(x)), expected)
    np.testing.assert_array_equal(model.predict(np.repeat(x, 2, axis=3)[..., ::2]), expected)


def test_flatten_puts_the_channels_of_a_pixel_side_by_side() -> None:
    model = svd.Sequential(svd.Flatten(), svd.Dense(112, 112), backend="numpy", dtype="float64", input_shape=SHAPE)
    model.parameters["dense1.theta"][...] = np.eye(112)
    np.testing.assert_array_equal(model.predict(images()), rows_of(images()))


def test_more_filters_than_a_tile_holds_on_few_inputs() -> None:
    layers = svd.VariationalConv2d(1, 17_000, 1), svd.Flatten()
    model, x = scatter(svd.Sequential(*layers, backend="numba", input_shape=(1, 2, 2))), images(3, (1, 2, 2))
    nets = model, model.copy(backend="numpy")
    found, expected = (net.forward(net.prepare(x), Pass(net.backend, "sample", 0.0, 1, 1)) for net in nets)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


# --- Gradients ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prior", sorted(PRIORS))
def test_gradients_of_every_prior_at_a_random_point_and_after_training(prior: str, backend: str) -> None:
    data, y = stripes(), np.array([0, 1, 2, 0, 1])
    model = conv_net(backend, prior=prior)
    assert_ok(model, images(5), y, n_train=100, samples=6)
    assert_ok(model, images(5), y, kl_weight=0.0, samples=6, step=2)
    trainer = Trainer(model, data, svd.TrainConfig(epochs=2, batch_size=20, lr=0.02))
    for _ in range(5):
        trainer.step()
    assert_ok(model, data.x_train[:5].reshape(5, *SHAPE), data.y_train[:5], n_train=110, samples=6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_plain_convolutions(backend: str) -> None:
    model = conv_net(backend, plain=True)
    assert_ok(model, images(5), np.array([0, 1, 2, 0, 1]), samples=12)
    Trainer(model, stripes(), svd.TrainConfig(epochs=1, batch_size=20, lr=0.02)).step()
    assert_ok(model, images(5), np.array([0, 1, 2, 0, 1]), samples=12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["masked", "mean"])
def test_gradients_of_masked_training_and_fine_tuning(mode: Any, backend: str) -> None:
    model = conv_net(backend)
    kept = svd.measure_sparsity(model).kept
    assert 0 < kept["conv1"] < 90 and 0 < kept["conv2"] < 120
    run = (
        Pass(model.backend, "mean", 0.0, 3, 50) if mode == "mean" else Pass(model.backend, "sample", model.keep, 3, 50)
    )
    error = directional_error(model, images(), np.arange(7) % 3, run, 1 / 240)
    assert error < (1e-6 if backend == "numpy" else 2e-3)


# --- Torch's convolution and its autograd, fed the same noise ---


@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
def test_values_and_gradients_equal_those_of_torch(geometry: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    x, target = images(), np.random.default_rng(1)
    for kind in (svd.Conv2d, svd.VariationalConv2d):
        layer = kind(2, 5, **geometry)
        options: dict[str, Any] = {"backend": "numpy", "dtype": "float64", "likelihood": "gaussian", "seed": 5}
        model = scatter(svd.Sequential(layer, svd.ReLU(), svd.Flatten(), input_shape=SHAPE, prior="ard", **options))
        y = target.standard_normal((len(x), model.n_outputs))
        loss, gradients = model.loss_and_grads(x, y, n_train=300, kl_weight=0.7, step=4)

        leaves = {name: torch.tensor(array, requires_grad=True) for name, array in model.parameters.items()}
        theta, bias = leaves["conv1.theta"], leaves["conv1.bias"]
        slide = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        h = torch.nn.functional.conv2d(torch.tensor(x), theta.permute(3, 2, 0, 1), bias, **slide)
        kl = torch.tensor(0.0, dtype=torch.float64)
        if kind is svd.VariationalConv2d:
            sigma2 = leaves["conv1.log_sigma2"].exp()
            var = torch.nn.functional.conv2d(torch.tensor(x**2), sigma2.permute(3, 2, 0, 1), **slide)
            noise = model.backend.noise(NoiseKey(5, 0, 4), len(x), model.n_outputs)
            noise = torch.tensor(noise.reshape(len(x), *var.shape[2:], 5)).permute(0, 3, 1, 2)
            where = var > 0  # the root has no slope at 0
            h = h + torch.where(where, torch.where(where, var, 1.0).sqrt(), 0.0) * noise
            kl = 0.5 * torch.log1p(theta**2 / sigma2).sum()
        outputs = torch.relu(h).permute(0, 2, 3, 1).reshape(len(x), -1)
        squared = ((outputs - torch.tensor(y)) ** 2).sum() / len(x)
        torch_loss = squared / 2 + 0.5 * np.log(2 * np.pi) * y.shape[1] + 0.7 / 300 * kl
        torch_loss.backward()
        assert loss == pytest.approx(torch_loss.item(), rel=1e-12)
        for name, leaf in leaves.items():
            np.testing.assert_allclose(gradients[name], leaf.grad.numpy(), rtol=1e-8, atol=1e-12, err_msg=name)


# --- Noise ---

DRAWS = 20_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_output_has_the_moments_of_sampled_weights(backend: str) -> None:
    layer = svd.VariationalConv2d(2, 3, (2, 3), stride=(1, 2), padding=(0, 1))
    model = scatter(svd.Sequential(layer, svd.Flatten(), backend=backend, dtype=DTYPE[backend], input_shape=(2, 3, 4)))
    x, rng = images(1, (2, 3, 4)), np.random.default_rng(1)
    run = Pass(model.backend, "sample", 0.0, 0, 0)
    y = model.forward(model.prepare(np.tile(x, (DRAWS, 1, 1, 1))), run).astype(np.float64).reshape(DRAWS, -1)
    theta, log_sigma2, bias = (
        model.parameters[f"conv1.{p}"].astype(np.float64) for p in ("theta", "log_sigma2", "bias")
    )
    geometry = layer.stride, layer.padding, layer.dilation
    mean = rows_of(correlate(x, theta, *geometry) + bias[:, None, None])[0]
    var = rows_of(correlate(x**2, np.exp(log_sigma2), *geometry))[0]

    one_by_one = 2000  # networks with weights drawn one by one, all the outputs of an image from the same weights
    weights = theta[..., None, :] + np.exp(log_sigma2 / 2)[..., None, :] * rng.standard_normal((2, 3, 2, one_by_one, 3))
    explicit = correlate(x, weights.reshape(2, 3, 2, -1), *geometry)[0].reshape(one_by_one, 3, 2, 2)
    explicit = rows_of(explicit + bias[:, None, None])
    for draws in (y, explicit):
        assert np.all(np.abs(draws.mean(axis=0) - mean) < 4.5 * np.sqrt(var / len(draws)))
        assert np.all(np.abs(draws.var(axis=0) - var) < 4.5 * var * np.sqrt(2 / len(draws)))
    correlation = np.corrcoef(y.T) - np.eye(y.shape[1])  # between positions too: what the layer neglects
    assert np.abs(correlation).max() < 4.5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_example_alone_draws_what_it_draws_in_a_batch(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = conv_net(backend, seed=2**33), images(11)
    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12} if backend == "numpy" else {"rtol": 1e-4, "atol": 1e-5}
    together = model.forward(model.prepare(x), Pass(model.backend, "sample", 0.0, 9, 6, 40)).copy()
    for b in (0, 1, 6, 10):
        alone = model.forward(model.prepare(x[b : b + 1]), Pass(model.backend, "sample", 0.0, 9, 6, 40 + b))
        np.testing.assert_allclose(alone[0], together[b], **close)
        elsewhere = model.forward(model.prepare(x[b : b + 1]), Pass(model.backend, "sample", 0.0, 9, 6, 41 + b))
        assert not np.allclose(elsewhere[0], together[b], **close)
    samples = model.sample(x, 2)
    monkeypatch.setattr("svd_numpy.network.model.EVAL_ROWS", 4)
    np.testing.assert_allclose(model.sample(x, 2), samples, **close)
    assert not np.allclose(samples[0], samples[1])


def test_both_backends_draw_the_same_network() -> None:
    pytest.importorskip("numba")
    model = conv_net()
    twin = model.copy(backend="numba", dtype="float32")
    loss = model.loss(images(), np.arange(7) % 3, n_train=100)
    assert twin.loss(images(), np.arange(7) % 3, n_train=100) == pytest.approx(loss, rel=1e-5)


# --- Pruning and files ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pruned_net_predicts_what_the_masked_plain_net_does(backend: str) -> None:
    model, x = conv_net(backend), images()
    before = bits(model)
    sparse = svd.sparsify(model, 1.0)
    assert bits(model) == before
    model.threshold = 1.0
    np.testing.assert_array_equal(sparse.predict(x), model.predict(x))
    found = svd.measure_sparsity(model)
    assert found.total == {"conv1": 90, "conv2": 120, "dense1": 180}
    for name, kept in found.kept.items():
        assert np.count_nonzero(sparse.parameters[f"{name}.theta"]) == kept < found.total[name]
    masked = conv_net(backend, plain=True).init_from(sparse)
    np.testing.assert_array_equal(masked.predict(x), model.predict(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_give_the_network_back(tmp_path: Path, backend: str) -> None:
    model, x = conv_net(backend, seed=7, input_mean=images(1, seed=1)[0]), images()
    model.save(tmp_path / "a.safetensors")
    loaded = svd.Sequential.load(tmp_path / "a.safetensors", backend)
    assert loaded.config() == model.config() and bits(loaded) == bits(model) and loaded.in_shape == SHAPE
    assert [a.window for a in loaded.variational_layers] == [a.window for a in model.variational_layers]
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    np.testing.assert_array_equal(loaded.sample(x, 2), model.sample(x, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_net_is_where_a_variational_one_may_start(backend: str) -> None:
    plain, model, x = conv_net(backend, plain=True), conv_net(backend), images()
    log_sigma2 = model.parameters["conv1.log_sigma2"].copy()
    model.init_from(plain)
    np.testing.assert_array_equal(model.parameters["conv1.log_sigma2"], log_sigma2)
    model.threshold = 60.0
    np.testing.assert_array_equal(model.predict(x), plain.predict(x))
    before = bits(model)
    with pytest.raises(ValueError, match=r"conv2\.theta.*\(3, 3, 5, 4\).*\(3, 2, 5, 4\)"):
        model.init_from({"conv1.theta": np.zeros((3, 3, 2, 5)), "conv2.theta": np.zeros((3, 3, 5, 4))})
    assert bits(model) == before


# --- What does not fit ---


def build(*layers: svd.ReLU, shape: Any = (3, 8, 7)) -> Callable[[], Any]:
    return lambda: svd.Sequential(*layers, backend="numpy", input_shape=shape)


def first(**options: Any) -> Callable[[], Any]:
    return lambda: svd.VariationalConv2d(**({"in_channels": 3, "out_channels": 4, "kernel_size": 3} | options))


BAD: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    "kernel too large": (
        build(svd.Conv2d(3, 4, (5, 9))), ValueError,
        ("'conv1'", "kernel of (5, 9)", "8 x 7", "padding (0, 0)", "use a smaller kernel, more padding"),
    ),
    "dilated kernel too large": (
        build(svd.Conv2d(3, 4, 3, padding=1), svd.VariationalConv2d(4, 4, 3, dilation=(4, 1), name="wide")), ValueError,
        ("'wide'", "kernel of (3, 3)", "dilation (4, 1)", "8 x 7", "fewer layers before it"),
    ),
    "channels": (
        build(svd.Conv2d(3, 4, 3), svd.ReLU(), svd.VariationalConv2d(3, 4, 3)), ValueError,
        ("'conv2'", "images of 4 channels", "expected 3", "make its first argument 4"),
    ),
    "channels last": (
        build(svd.Conv2d(3, 4, 3), shape=(8, 7, 3)), ValueError, ("'conv1'", "8 channels", "expected 3"),
    ),
    "behind Flatten": (
        build(svd.Flatten(), svd.Conv2d(3, 4, 3)), ValueError,
        ("'conv1'", "(B, 168)", "expected images (B, C, H, W)", "put it before Flatten"),
    ),
    "behind a dense layer": (
        build(svd.Dense(5, 12), svd.Conv2d(3, 4, 3), shape=None), ValueError,
        ("'conv1'", "(B, 12)", "expected images (B, C, H, W)", "input_shape=(C, H, W)"),
    ),
    "no Flatten": (
        build(svd.Conv2d(3, 4, 3), svd.Dense(120, 2)), ValueError,
        ("'dense1'", "(B, 4, 6, 5)", "expected (B, 120)", "put a Flatten before it, with 120"),
    ),
    "images at the end": (
        build(svd.Conv2d(3, 4, 3)), ValueError, ("'conv1'", "(B, 4, 6, 5)", "Flatten"),
    ),
    "dense of another size": (
        build(svd.Conv2d(3, 4, 3), svd.Flatten(), svd.Dense(119, 2)), ValueError,
        ("'dense1'", "(B, 120)", "expected (B, 119)", "make its first argument 120"),
    ),
    "no input_shape": (
        build(svd.VariationalConv2d(3, 4, 3), shape=None), ValueError,
        ("VariationalConv2d", "shape of its inputs", "input_shape=(C, H, W)"),
    ),
    "rows": (build(svd.Conv2d(3, 4, 3), shape=(168,)), ValueError, ("'conv1'", "(B, 168)", "expected images")),
    "a number": (build(svd.Conv2d(3, 4, 3), shape=168), ValueError, ("'conv1'", "(B, 168)", "expected images")),
    "two sizes": (build(svd.Conv2d(3, 4, 3), shape=(8, 7)), ValueError, ("'conv1'", "(B, 8, 7)", "expected images")),
    "size 0": (build(svd.Conv2d(3, 4, 3), shape=(3, 0, 7)), ValueError, ("input_shape", "got 0", ">= 1")),
    "size True": (build(svd.Conv2d(3, 4, 3), shape=(3, True, 7)), TypeError, ("input_shape", "True", "whole number")),
    "size 1.5": (build(svd.Conv2d(3, 4, 3), shape=(3, 8, 1.5)), TypeError, ("input_shape", "1.5", "whole number")),
    "kernel 0": (first(kernel_size=0), ValueError, ("kernel_size", "got 0", ">= 1")),
    "kernel (3, 0)": (first(kernel_size=(3, 0)), ValueError, ("kernel_size", "got 0", ">= 1")),
    "stride of three": (first(stride=(1, 2, 3)), ValueError, ("stride", "(1, 2, 3)", "pair (vertical, horizontal)")),
    "stride of none": (first(stride=()), ValueError, ("stride", "()", "pair (vertical, horizontal)")),
    "stride None": (first(stride=None), TypeError, ("stride", "None", "whole number >= 1")),
    "stride text": (first(stride="2"), TypeError, ("stride", "'2'", "whole number >= 1")),
    "padding -1": (first(padding=-1), ValueError, ("padding", "got -1", ">= 0")),
    "padding valid": (first(padding="valid"), TypeError, ("padding", "'valid'", "whole number >= 0")),
    "kernel True": (first(kernel_size=True), TypeError, ("kernel_size", "True", "whole number")),
    "dilation 1.5": (first(dilation=1.5), TypeError, ("dilation", "1.5", "whole number")),
    "dilation (1, 0)": (first(dilation=(1, 0)), ValueError, ("dilation", "got 0", ">= 1")),
    "in_channels": (first(in_channels=0), ValueError, ("in_channels", "got 0", ">= 1")),
    "out_channels": (first(out_channels=2.0), TypeError, ("out_channels", "2.0", "whole number")),
    "log_sigma2": (first(log_sigma2=11), ValueError, ("log_sigma2", "11", "[-20, 10]")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named_when_the_net_is_built(case: str) -> None:
    call, kind, words = BAD[case]
    with pytest.raises(kind) as caught:
        call()
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_layer_that_did_not_fit_may_go_where_it_fits() -> None:
    layer = svd.VariationalConv2d(4, 6, 3)
    with pytest.raises(ValueError, match="expected 4"):
        build(layer)()
    got = build(svd.Conv2d(3, 4, 3), layer, svd.Flatten())()
    assert bits(got) == bits(build(svd.Conv2d(3, 4, 3), svd.VariationalConv2d(4, 6, 3), svd.Flatten())())


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_that_do_not_fit_change_nothing(backend: str) -> None:
    model, x, y = conv_net(backend), images(), np.arange(7) % 3
    before, outputs = bits(model), model.predict(x)
    for bad, words in (
        (x[0], "x[None]"),
        (x.transpose(0, 2, 3, 1), "got shape (7, 8, 7, 2), expected (B, 2, 8, 7)"),
        (x.reshape(7, 16, 7), "(7, 16, 7)"), (x[..., :-1], "(7, 2, 8, 6)"), (np.full_like(x, np.nan), "example 0"),
    ):  # fmt: skip
        for call in (model.predict, lambda x: model.sample(x, 1), lambda x: model.loss(x, y, 7)):
            with pytest.raises(ValueError) as caught:
                call(bad)
            assert words in str(caught.value)
    assert bits(model) == before
    np.testing.assert_array_equal(model.predict(x), outputs)


# --- Training ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_learns_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Masked training and fine-tuning, stopped in the middle of an epoch of each."""
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    config = svd.TrainConfig(
        epochs=8, batch_size=20, lr=0.02, kl_schedule=((0.0, 0.0), (8.0, 0.1)), train_mask=True,
        finetune_epochs=2, finetune_threshold=1.0,
    )  # fmt: skip

    def go(**options: Any) -> tuple[dict[str, bytes], list[dict[str, Any]], dict[str, bytes]]:
        model = conv_net(backend, fresh=True, input_mean=np.full(SHAPE, 0.5), dtype="float32")
        return bits(model), svd.fit(model, stripes(), config, progress=False, **options), bits(model)

    start, history, end = go()
    assert history[7]["nll"] < 0.5 * history[0]["nll"] and history[-1]["test_error"] < 0.3
    assert start != end
    for step in (15, 51):
        stop_after(monkeypatch, step, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(svd.TrainingInterrupted):
            go(run_dir=tmp_path, resume=step > 15)
    assert go(run_dir=tmp_path, resume=True)[2] == end
    assert run_log(tmp_path) == timeless(history)
