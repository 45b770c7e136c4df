"""Convolutions in groups: the same as convolutions of the pieces, with counts of real weights only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import make_config
from sparse_tools import distance, inputs_of, kill
from thread_counts import assert_same_bits

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.network.layers.base import Pass

BACKENDS = ["numpy", "numba"]
CASES = [(4, 6, 2), (3, 3, 3), (6, 12, 6), (5, 4, 1)]  # channels, filters, groups


def net(channels: int, filters: int, groups: int, backend: str = "numpy", **options: Any) -> svd.Sequential:
    layers = (
        svd.VariationalConv2d(channels, filters, (3, 2), stride=(1, 2), padding=(1, 0), groups=groups, log_sigma2=-3.0),
        svd.ReLU(), svd.Conv2d(filters, filters, 2, groups=groups, bias=False), svd.Flatten(),
        svd.VariationalDense(filters * 4 * 2, 3),
    )  # fmt: skip
    return svd.Sequential(*layers, backend=backend, input_shape=(channels, 5, 7), **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_each_group_is_a_convolution_of_its_own(case: tuple[int, int, int], backend: str) -> None:
    channels, filters, groups = case
    n_in, n_out = channels // groups, filters // groups
    options: Any = {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)}
    whole = svd.Sequential(
        svd.Conv2d(channels, filters, groups=groups, **options), svd.Flatten(), input_shape=(channels, 5, 7),
        backend=backend, likelihood="gaussian",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    whole.parameters["conv1.bias"][:] = rng.normal(size=filters)
    x = inputs_of(whole, 4)
    shape = whole.layers[0].out_shape
    y = rng.normal(size=(4, *shape)).astype(np.float32)
    _, gradients = whole.loss_and_grads(x, y.reshape(4, -1), 4)
    found = whole.predict(x).reshape(4, *shape)
    assert whole.parameters["conv1.theta"].shape == (3, 2, n_in, filters)
    for group in range(groups):
        ours, theirs = slice(group * n_out, (group + 1) * n_out), slice(group * n_in, (group + 1) * n_in)
        piece = svd.Sequential(
            svd.Conv2d(n_in, n_out, **options), svd.Flatten(), input_shape=(n_in, 5, 7), backend=backend,
            likelihood="gaussian",
        )  # fmt: skip
        piece.parameters["conv1.theta"][:] = whole.parameters["conv1.theta"][..., ours]
        piece.parameters["conv1.bias"][:] = whole.parameters["conv1.bias"][ours]
        part = np.ascontiguousarray(x[:, theirs])
        np.testing.assert_allclose(piece.predict(part).reshape(4, *shape[:2], n_out), found[..., ours], rtol=1e-5)
        _, own = piece.loss_and_grads(part, y[..., ours].reshape(4, -1), 4)
        np.testing.assert_allclose(gradients["conv1.theta"][..., ours], own["conv1.theta"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gradients["conv1.bias"][ours], own["conv1.bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_every_gradient(case: tuple[int, int, int]) -> None:
    for backend, dtype in (("numpy", "float64"), ("numba", "float32")):
        model = net(*case, backend=backend, dtype=dtype)
        check = svd.gradcheck(model, inputs_of(model, 5, dtype=dtype), np.arange(5) % 3, samples=8)
        assert check.ok, check
    assert svd.gradcheck(svd.VariationalConv2d(4, 2, 3, groups=2), inputs_of(net(4, 6, 2), 3)).ok


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_have_the_variance_of_the_weights_and_groups_noise_of_their_own(backend: str) -> None:
    layer = svd.VariationalConv2d(2, 2, 1, groups=2, bias=False, theta_std=0.0, log_sigma2=0.0)
    model = svd.Sequential(layer, svd.Flatten(), input_shape=(2, 8, 8), backend=backend)
    x = np.zeros((40, 2, 8, 8), np.float32)
    x[:, 0], x[:, 1] = 2, 3
    y = model.forward(model.prepare(x), Pass(model.backend, seed=1, step=3)).reshape(-1, 2)
    np.testing.assert_allclose(y.std(axis=0), [2, 3], rtol=0.05)
    assert abs(np.corrcoef(y.T)[0, 1]) < 0.05


def test_both_backends_draw_the_same_and_threads_do_not_matter() -> None:
    x = inputs_of(net(6, 12, 3), 9)
    fast, plain = (net(6, 12, 3, backend) for backend in ("numba", "numpy"))
    np.testing.assert_allclose(fast.sample(x, 2), plain.sample(x, 2), rtol=1e-3, atol=1e-4)
    assert_same_bits(lambda: tuple(net(6, 12, 3, "numba").loss_and_grads(x, np.arange(9) % 3, 9)[1].values()))


@pytest.mark.parametrize("case", CASES)
def test_compact_networks_files_and_counts(case: tuple[int, int, int], tmp_path: Path) -> None:
    channels, filters, groups = case
    model = kill(net(*case), 0.5, units=0.8)
    x = inputs_of(model, 7)
    wanted = model.predict(x)
    model.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(svd.Sequential.load(tmp_path / "net.safetensors", "numpy").predict(x), wanted)
    for backend in BACKENDS:
        small = svd.compress(model, backend=backend)
        assert distance(small.predict(x), wanted) < 1e-5
    sparsity = svd.measure_sparsity(model)
    assert sparsity.total["conv1"] == 6 * channels * filters // groups
    assert sparsity.kept["conv1"] == np.count_nonzero(model.alive()["conv1"])
    assert sparsity.live["conv1"][1] == filters
    total = sum(sparsity.total.values())
    assert f"of {total:,} weights" in str(small)
    assert svd.sizes(model).layers[0].before == (3, 2, channels // groups, filters)
    assert distance(svd.unpack(svd.pack(small)).predict(x), wanted) < 1e-5


def test_pruned_weights_stay_pruned_in_fine_tuning() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 4 * 35)).astype(np.float32), np.arange(24) % 3
    data = Dataset("own", x, y, x, y, (4, 5, 7), 3, "made here")
    for backend in BACKENDS:
        model = kill(net(4, 6, 2, backend), 0.5)
        dead = ~model.alive()["conv1"]
        config = make_config(epochs=0, finetune_epochs=2, finetune_threshold=3.0, batch_size=8)
        svd.fit(model, data, config, progress=False)
        theta = model.parameters["conv1.theta"].reshape(dead.shape)
        assert (theta[dead] == 0).all() and (theta[~dead] != 0).all()


def test_channels_of_a_layer_with_groups_cannot_be_taken() -> None:
    model = net(4, 6, 2)
    for name in ("conv1", "conv2"):
        with pytest.raises(svd.SvdValueError, match="has groups, so it must keep its"):
            model.take({name: [0, 1, 2, 3]})
    x = inputs_of(model, 3)
    np.testing.assert_array_equal(model.take({}).predict(x), model.predict(x))


@pytest.mark.parametrize("groups", [3, 5, 0, -1, 2.0, 8])
def test_groups_that_do_not_divide_channels_and_filters_are_refused(groups: Any) -> None:
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match="groups: got"):
        svd.Conv2d(4, 8, 3, groups=groups)
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match="groups: got"):
        svd.VariationalConv2d(8, 4, 3, groups=groups)


def test_groups_of_pytorch(tmp_path: Path) -> None:
    nn = pytest.importorskip("torch", reason="PyTorch is not installed").nn
    import torch

    theirs = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), (1, 2), (1, 0), groups=2), nn.ReLU(), nn.Conv2d(6, 6, 2, groups=6, bias=False),
        nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip
    ours = svd.Sequential(
        svd.Conv2d(4, 6, (3, 2), (1, 2), (1, 0), groups=2), svd.ReLU(), svd.Conv2d(6, 6, 2, groups=6, bias=False),
        svd.Flatten(), svd.Dense(48, 3), input_shape=(4, 5, 7), backend="numpy",
    )  # fmt: skip
    x = inputs_of(ours, 5)
    with torch.no_grad():
        outputs = theirs(torch.from_numpy(x)).numpy()
    ours.init_from(svd.from_torch_state_dict(ours, theirs, check=(x, outputs)))
    np.testing.assert_allclose(ours.predict(x), outputs, rtol=1e-4, atol=1e-5)
    state = {name: torch.from_numpy(array) for name, array in svd.torch_state_dict(ours).items()}
    for name, array in theirs.state_dict().items():
        np.testing.assert_array_equal(state[name], array)
    with pytest.raises(svd.SvdValueError, match="groups=1, layer 'conv1' groups=2"):
        theirs[0].groups = 1
        svd.from_torch_state_dict(ours, theirs)
