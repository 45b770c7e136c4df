"""Batch normalisation with a plain average (momentum None), and without gamma and beta (affine False)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import make_config

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.network.layers.base import Pass
from svd_numpy.train.loop import fit

BACKENDS = ["numpy", "numba"]


def net(backend: str, **options: Any) -> svd.Sequential:
    layers = svd.BatchNorm(5, **options), svd.VariationalDense(5, 3)
    return svd.Sequential(*layers, backend=backend, input_shape=(5,))


def train_step(model: svd.Sequential, x: Any) -> None:
    run = Pass(model.backend, training=True, learn=True)
    y = model.forward(x.astype(model.dtype), run)
    model.backward(np.ones_like(y), run)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_plain_average_of_all_batches(backend: str) -> None:
    pytest.importorskip(backend)
    model, rng = net(backend, momentum=None), np.random.default_rng(0)
    batches = [rng.normal(2, 3, (7, 5)) for _ in range(4)]
    for number, x in enumerate(batches, start=1):
        train_step(model, x)
        seen = batches[:number]
        mean, var = np.mean([b.mean(0) for b in seen], 0), np.mean([b.var(0, ddof=1) for b in seen], 0)
        np.testing.assert_allclose(model.state["batch_norm1.running_mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(model.state["batch_norm1.running_var"], var, rtol=1e-5)
        np.testing.assert_array_equal(model.state["batch_norm1.batches"], number)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gamma_and_beta_there_are_no_parameters(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    model = net(backend, affine=False, momentum=None)
    assert set(model.parameters) == {"dense1.theta", "dense1.log_sigma2", "dense1.bias"}
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (12, 5)).astype(np.float32), np.arange(12) % 3
    data = Dataset("own", x, y, x, y, None, 3, "made here")
    fit(model, data, make_config(epochs=3, batch_size=4, finetune_epochs=1), progress=False)
    assert (model.state["batch_norm1.batches"] == 12).all()
    normal = (x - model.state["batch_norm1.running_mean"]) / np.sqrt(model.state["batch_norm1.running_var"] + 1e-5)
    np.testing.assert_allclose(model.activations(x)["batch_norm1"], normal, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "net.safetensors")
    for other in (svd.Sequential.load(tmp_path / "net.safetensors", backend), model.copy(), svd.compress(model)):
        np.testing.assert_allclose(other.predict(x), model.predict(x), rtol=1e-4, atol=1e-5)
    assert (svd.Sequential.load(tmp_path / "net.safetensors").state["batch_norm1.batches"] == 12).all()


def test_a_run_that_resumes_goes_on_with_the_average(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (12, 5)).astype(np.float32), np.arange(12) % 3
    data, config = Dataset("own", x, y, x, y, None, 3, "made here"), make_config(epochs=3, batch_size=5)
    whole = net("numpy", momentum=None)
    fit(whole, data, config, progress=False)

    def fail(_: Any, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(net("numpy", momentum=None), data, config, [fail], tmp_path, progress=False)
    resumed = net("numpy", momentum=None)
    fit(resumed, data, config, run_dir=tmp_path, resume=True, progress=False)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)


def test_numbers_of_batches_below_zero_are_refused() -> None:
    with pytest.raises(svd.SvdValueError, match=r"batches goes from -1\.0 to -1\.0, expected \[0, inf\]"):
        net("numpy", momentum=None).init_from({"batch_norm1.batches": -np.ones(5)})
    for options in ({"affine": 1}, {"momentum": "none"}):
        with pytest.raises(svd.SvdTypeError):
            svd.BatchNorm(5, **options)


def test_there_and_back_through_a_state_dict() -> None:
    model, rng = net("numpy", momentum=None, affine=False), np.random.default_rng(0)
    for _ in range(3):
        train_step(model, rng.normal(1, 2, (6, 5)))
    arrays = svd.torch_state_dict(model)
    assert arrays["0.num_batches_tracked"] == 3 and arrays["0.num_batches_tracked"].dtype == np.int64
    assert set(arrays) == {
        "0.running_mean", "0.running_var", "0.num_batches_tracked", "1.weight", "1.bias",
    }  # fmt: skip
    again = net("numpy", momentum=None, affine=False)
    again.init_from(svd.from_torch_state_dict(again, arrays))
    np.testing.assert_array_equal(again.state["batch_norm1.batches"], 3)
    with pytest.raises(svd.SvdValueError, match="no module has the shapes"):
        svd.from_torch_state_dict(net("numpy"), arrays)


@pytest.mark.parametrize("affine", [True, False])
def test_steps_are_those_of_pytorch(affine: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = torch.nn.Sequential(torch.nn.BatchNorm1d(5, momentum=None, affine=affine), torch.nn.Linear(5, 3))
    model, rng = net("numpy", momentum=None, affine=affine), np.random.default_rng(0)
    for _ in range(3):
        x = rng.normal(1, 2, (6, 5)).astype(np.float32)
        train_step(model, x)
        theirs.train()(torch.from_numpy(x))
    np.testing.assert_allclose(model.state["batch_norm1.running_mean"], theirs[0].running_mean, rtol=1e-5)
    np.testing.assert_allclose(model.state["batch_norm1.running_var"], theirs[0].running_var, rtol=1e-5)
    with torch.no_grad():
        outputs = theirs.eval()(torch.from_numpy(x))
    found = svd.from_torch_state_dict(model, theirs, check=(x, outputs))
    np.testing.assert_array_equal(found["batch_norm1.batches"], 3)
