"""Sparse VD in one file, and the package against it."""

from __future__ import annotations

import ast
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from svd_numpy import micro
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.philox import gaussian
from svd_numpy.kernels.priors import kl_divergence, kl_gradients
from svd_numpy.micro import sparse_vd
from svd_numpy.network.layers import Layer, ReLU, VariationalDense
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.trainer import Trainer


def twins(*sizes: int, seed: int, log_sigma2: float = -10.0) -> tuple[Sequential, micro.Net]:
    """The same network twice: a float64 model of the package, and layers of `micro` with its weights."""
    layers: list[Layer] = []
    for n_in, n_out in pairwise(sizes):
        layers += [VariationalDense(n_in, n_out, log_sigma2=log_sigma2), ReLU()]
    model = Sequential(*layers[:-1], backend="numpy", dtype="float64", seed=seed)
    names = ("theta", "log_sigma2", "bias")
    net = [{n: model.parameters[f"{layer.name}.{n}"].copy() for n in names} for layer in model.variational_layers]
    return model, net


@pytest.mark.parametrize(("log_sigma2", "seed"), [(-10.0, 0), (-2.0, 5_000_000_000)])
def test_the_package_retraces_every_loss_of_micro(blobs: Dataset, log_sigma2: float, seed: int) -> None:
    model, net = twins(12, 33, 17, 3, seed=seed, log_sigma2=log_sigma2)
    config = TrainConfig(5, 25, 5e-3, lr_schedule=((2, 1.0), (5, 0.1)), kl_schedule=((1, 0.0), (3, 1.0)))
    trainer = Trainer(model, blobs, config)
    moments = micro.zeros_like(net), micro.zeros_like(net)
    ours, theirs = [], []
    while not trainer.done:
        step = trainer.progress.step
        trainer.batches.begin(step)
        rows, (lr, kl_weight, _) = trainer.batches.order[trainer.batches.rows(step)].copy(), trainer.schedule(step)
        x, labels = blobs.x_train[rows].astype(np.float64), blobs.y_train[rows]
        loss, gradients = micro.loss_and_gradients(net, x, labels, len(blobs.x_train), kl_weight, seed, step)
        micro.adam_step(net, gradients, moments, lr, step)
        theirs.append(loss)
        kl, trainer.progress.nll_sum = model.kl(), 0.0
        trainer.step()
        ours.append(trainer.progress.nll_sum / len(rows) + kl_weight * kl / len(blobs.x_train))
    assert len(ours) == 50
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    for layer, own in zip(model.variational_layers, net, strict=True):
        np.testing.assert_allclose(layer.theta, own["theta"], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(layer.log_sigma2, own["log_sigma2"], rtol=1e-7, atol=1e-9)
    x = blobs.x_test.astype(np.float64)
    np.testing.assert_allclose(model.predict(x), micro.predict(net, x), rtol=1e-8, atol=1e-10)


def test_noise_is_the_packages_field_of_noise() -> None:
    for seed, layer, step, rows, units in [
        (0, 0, 0, 1, 1),
        (2**40 + 3, 4, 999, 7, 65),
        (17, 2, 2**32 - 1, 3, 300),
    ]:
        expected = gaussian(NoiseKey(seed, layer, step), rows, units)
        np.testing.assert_allclose(micro.normals(seed, layer, step, rows, units), expected, rtol=1e-13)


def test_kl_is_that_of_the_priors_module() -> None:
    rng = np.random.default_rng(0)
    theta, log_sigma2 = rng.standard_normal((20, 30)), rng.uniform(-20, 10, (20, 30))
    theta[0] = 0
    value, d_theta, d_log_sigma2 = micro.kl_divergence(theta, log_sigma2)
    assert value == pytest.approx(kl_divergence(theta, log_sigma2).sum(), rel=1e-12)
    expected = kl_gradients(theta, log_sigma2)
    np.testing.assert_allclose(d_theta, expected[0], rtol=1e-10)
    np.testing.assert_allclose(d_log_sigma2, expected[1], rtol=1e-10)


def test_examples_that_are_all_zero_are_harmless() -> None:
    _, net = twins(4, 5, 3, seed=0, log_sigma2=-1.0)
    loss, gradients = micro.loss_and_gradients(net, np.zeros((6, 4)), np.zeros(6, np.int64), 6, 1.0, 0, 0)
    assert np.isfinite(loss)
    assert all(np.isfinite(array).all() for layer in gradients for array in layer.values())


def test_running_it_shows_weights_dying_while_the_error_stays(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    micro.main(epochs=24)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8x8 digits")
    error, sparsity = (float(number) for number in re.findall(r"([\d.]+)%", lines[-1]))
    assert len(lines) == 2 + 24
    assert error < 6
    assert sparsity > 85


def test_without_scikit_learn_it_learns_from_a_sparse_teacher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    micro.main(epochs=9)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sparse teacher")
    error, sparsity = (float(number) for number in re.findall(r"([\d.]+)%", lines[-1]))
    assert error < 25  # nine of ten guesses would be wrong by chance
    assert sparsity > 50


def test_it_stays_one_short_file_that_needs_nothing_of_the_package() -> None:
    text = Path(sparse_vd.__file__).read_text()
    assert len(text.splitlines()) <= 200
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "itertools", "typing", "numpy", "numpy.typing", "sklearn.datasets"}
