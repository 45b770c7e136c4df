"""The networks of the experiments: their shapes, their kinds, and one as the start of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.experiments.architectures import ARCHITECTURES, KINDS, build
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.network.layers import BatchNorm, Dropout, ReLU
from svd_numpy.network.layers.weighted import Variational, Weighted

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)


def make_data(shape: tuple[int, ...], n_classes: int = 10) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (20, int(np.prod(shape))), dtype=np.uint8)
    y = np.arange(20) % n_classes
    return Dataset("own", x[:12], y[:12], x[12:], y[12:], shape, n_classes, "made here")


def make(arch: str, kind: str = "variational", width: float = 1.0, recipe: str = "default", **data: Any) -> Any:
    shape = CIFAR if arch == "vgg-like" else MNIST
    return build(make_data(shape, **data), get_recipe(arch, recipe), 0, "numpy", kind, width)


def weighted(model: svd.Sequential) -> list[Weighted]:
    return [layer for layer in model.layers if isinstance(layer, Weighted)]


# ------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    ("arch", "sizes"),
    [
        ("lenet-300-100", [235_200, 30_000, 1_000]),  # Molchanov et al. 2017, table 1: 266,200 weights
        ("lenet-5", [500, 25_000, 400_000, 5_000]),  # 430,500
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_lenets_have_the_papers_weights(arch: str, sizes: list[int], kind: str) -> None:
    model = make(arch, kind)
    assert [layer.theta.size for layer in weighted(model)] == sizes
    assert all(isinstance(layer, Variational) == (kind == "variational") for layer in weighted(model))


@pytest.mark.parametrize(("width", "n_classes"), [(1.0, 10), (0.25, 100), (0.05, 10), (1.5, 10)])
def test_vgg_like_is_that_of_the_paper(width: float, n_classes: int) -> None:
    model = make("vgg-like", "dense", width, n_classes=n_classes)
    full = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512]
    widths = [max(1, round(units * width)) for units in full]
    sizes = [9 * n_in * n_out for n_in, n_out in zip([3, *widths[:12]], widths[:13], strict=True)]
    sizes += [widths[12] * widths[13], widths[13] * n_classes]
    assert [layer.theta.size for layer in weighted(model)] == sizes
    if width == 1:
        assert sum(sizes) == 14_977_728  # 14,710,464 of VGG-16's convolutions, 512 x 512, 512 x 10
    assert model.in_shape == CIFAR and model.n_outputs == n_classes
    pooled = [layer.window.out for layer in model.layers if layer.kind == "max_pool"]
    assert pooled == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


def test_each_hidden_layer_of_vgg_like_is_batch_normalised_then_rectified() -> None:
    model = make("vgg-like", width=0.05)
    for place, layer in enumerate(model.layers):
        if isinstance(layer, Weighted) and place < len(model.layers) - 1:
            norm, relu = model.layers[place + 1 : place + 3]
            assert isinstance(norm, BatchNorm) and norm.eps == 1e-3 and isinstance(relu, ReLU)
            assert not layer.has_bias  # beta of the normalisation is one
    assert weighted(model)[-1].has_bias


# ------------------------------------------------------------ kinds


def rates(model: svd.Sequential) -> list[tuple[str, float]]:
    """Each dropout's rate, with the last weighted layer before it."""
    found, before = [], ""
    for layer in model.layers:
        before = layer.name if isinstance(layer, Weighted) else before
        found += [(before, layer.p)] if isinstance(layer, Dropout) else []
    return found


def test_dropout_is_where_the_authors_have_it() -> None:
    inside = [1, *(3, 5, 6, 8, 9, 11, 12)]  # no convolution before a pooling
    expected = [(f"conv{number}", 0.3 if number == 1 else 0.4) for number in inside]
    assert rates(make("vgg-like", "dropout", 1.0)) == [*expected, ("dense1", 0.5)]
    narrow = rates(make("vgg-like", "dropout", 0.05))  # which needs all it has
    assert narrow == [(name, 0.05 * rate) for name, rate in [*expected, ("dense1", 0.5)]]
    assert rates(make("lenet-300-100", "dropout")) == [("dense1", 0.5), ("dense2", 0.5)]
    assert rates(make("lenet-5", "dropout")) == [("conv2", 0.5), ("dense1", 0.5)]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["variational", "dense"])
def test_other_kinds_have_no_dropout(arch: str, kind: str) -> None:
    assert rates(make(arch, kind, 0.05)) == []


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sparse_vd_starts_from_a_dropout_net_with_its_running_averages(arch: str) -> None:
    plain, sparse = make(arch, "dropout", 0.1), make(arch, "variational", 0.1)
    rng = np.random.default_rng(1)
    for array in (*plain.parameters.values(), *plain.state.values()):
        array[...] = rng.uniform(0.5, 1.5, array.shape)
    start = {name: array.copy() for name, array in sparse.parameters.items() if name.endswith(".log_sigma2")}
    sparse.init_from(plain)
    assert set(plain.parameters) == set(sparse.parameters) - set(start) and set(plain.state) == set(sparse.state)
    for name, array in {**plain.parameters, **plain.state}.items():
        np.testing.assert_array_equal({**sparse.parameters, **sparse.state}[name], array)
    for name, array in start.items():
        np.testing.assert_array_equal(sparse.parameters[name], array)
    for array in sparse.parameters.values():  # where no weight is pruned, they are the same function
        array *= 0.1
    for array in plain.parameters.values():
        array *= 0.1
    for name in start:
        sparse.parameters[name][...] = -20
    x = make_data(sparse.in_shape if len(sparse.in_shape) == 3 else MNIST).x_test
    np.testing.assert_allclose(sparse.predict(x), plain.predict(x), rtol=1e-5)


def test_first_weights_are_the_recipes() -> None:
    for kind in KINDS:
        layers = weighted(make("lenet-5", kind, recipe="paper"))
        glorot = (2 / (25 + 500)) ** 0.5, (2 / (500 + 1250)) ** 0.5
        assert [layer.theta_std for layer in layers] == [*glorot, 0.01, 0.01]
    for recipe, log_sigma2 in (("paper", -15), ("default", -10)):
        layers = make("vgg-like", width=0.05, recipe=recipe).variational_layers
        assert len(layers) == 15 and all((layer.log_sigma2 == log_sigma2).all() for layer in layers)


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sparse"}, "kind: got 'sparse', expected one of"),
        ({"width": 0}, "width: got 0, expected a finite number"),
        ({"width": 17}, "width: got 17"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("lenet-5", **changes)


def test_images_too_small_for_five_poolings_are_refused() -> None:
    with pytest.raises(ValueError, match="is larger than images of 1 x 1"):
        build(make_data(MNIST), get_recipe("vgg-like", "default"), 0, "numpy", "dense", 0.05)


# ------------------------------------------------------------ live units


def test_a_unit_is_live_while_one_incoming_weight_survives() -> None:
    model = make("lenet-5", width=0.1)  # 2, 5 filters, 50 units, 10 classes
    for layer in model.variational_layers:
        layer.theta[...], layer.log_sigma2[...] = 1, -10
    first, second, hidden, last = model.variational_layers
    first.theta[:, 0] = 0
    second.theta[1:, :] = 0  # one tap left of each filter
    hidden.theta[:, :30] = 0
    hidden.log_sigma2[:, 30:40] = 4  # drowned in noise
    last.theta[...] = 0
    counts = svd.measure_sparsity(model)
    assert counts.live == {"conv1": (1, 2), "conv2": (5, 5), "dense1": (10, 50), "dense2": (0, 10)}
    assert svd.measure_sparsity(model, 5.0).live["dense1"] == (20, 50)
    dense = svd.measure_sparsity(make("lenet-5", "dense"))
    assert dense.overall == 0 and dense.live["conv1"] == (20, 20)
