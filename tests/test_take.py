"""`Sequential.take`: the smaller network that is left when units, channels and inputs go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import N_IN, make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.train.loop import fit

BACKENDS = ["numpy", "numba"]
UNITS, INPUTS = np.array([0, 2, 3, 7]), np.array([0, 1, 2, 5, 9])


@pytest.fixture(scope="module", params=BACKENDS)
def trained(request: pytest.FixtureRequest) -> svd.Sequential:
    model = make_net(request.param, input_mean=np.linspace(-1, 1, N_IN))
    fit(model, make_data(), make_config(finetune_epochs=0), progress=False)
    return model


def without(model: svd.Sequential, units: Any, inputs: Any) -> svd.Sequential:
    """A copy in which what goes has no way on: weights behind lost units and of lost inputs are 0."""
    copy = model.copy()
    lost_units, lost_inputs = np.setdiff1d(np.arange(8), units), np.setdiff1d(np.arange(N_IN), inputs)
    for part in ("theta", "log_sigma2"):
        nothing = 0 if part == "theta" else -20
        copy.parameters[f"dense2.{part}"][lost_units] = nothing
        copy.parameters[f"dense1.{part}"][lost_inputs] = nothing
    return copy


def test_what_is_left_answers_as_before(trained: svd.Sequential) -> None:
    x, small = make_data().x_test, trained.take({"dense1": UNITS}, INPUTS)
    assert {name: a.shape for name, a in small.parameters.items()} == {
        "dense1.theta": (5, 4), "dense1.log_sigma2": (5, 4), "dense1.bias": (4,),
        "dense2.theta": (4, 3), "dense2.log_sigma2": (4, 3), "dense2.bias": (3,),
    }  # fmt: skip
    np.testing.assert_allclose(small.predict(x), without(trained, UNITS, INPUTS).predict(x), rtol=1e-4, atol=1e-5)
    for name in ("dense1.theta", "dense1.log_sigma2"):
        for new, old in zip(small.arena.views_of(name), trained.arena.views_of(name), strict=True):
            np.testing.assert_array_equal(new, old[np.ix_(INPUTS, UNITS)])  # numbers, moments and mask


def test_bools_choose_as_numbers_do_and_nothing_named_keeps_all(trained: svd.Sequential) -> None:
    x = make_data().x_test
    by_bool = trained.take({"dense1": np.isin(np.arange(8), UNITS)}, np.isin(np.arange(N_IN), INPUTS))
    np.testing.assert_array_equal(by_bool.predict(x), trained.take({"dense1": UNITS}, INPUTS).predict(x))
    np.testing.assert_allclose(trained.take({}).predict(x), trained.predict(x), rtol=1e-6)


def test_counts_are_those_of_the_network_that_was_built(trained: svd.Sequential, tmp_path: Path) -> None:
    small = trained.take({"dense1": UNITS}, INPUTS).take({"dense1": [1, 2]}, [0, 3])
    sparsity = svd.measure_sparsity(small)
    assert sparsity.total == {"dense1": 8 * N_IN, "dense2": 24}
    assert sparsity.kept["dense1"] <= 4 and sparsity.live["dense1"][1] == 8
    small.save(tmp_path / "small.safetensors")
    x = make_data().x_test
    again = svd.Sequential.load(tmp_path / "small.safetensors", small.backend.name)
    for same in (again, small.copy()):
        np.testing.assert_array_equal(same.predict(x), small.predict(x))
        assert svd.measure_sparsity(same) == sparsity
    np.testing.assert_array_equal(small.input_columns, INPUTS[[0, 3]])


def test_it_trains_on_and_is_compressed(trained: svd.Sequential) -> None:
    small, data = trained.take({"dense1": UNITS}, INPUTS), make_data()
    assert svd.gradcheck(small, data.x_test[:5], data.y_test[:5]).ok
    before = svd.evaluate(small, data.x_test, data.y_test)["nll"]
    records = fit(small, data, make_config(lr=0.02), progress=False)
    assert records[-1]["test_nll"] < before
    assert records[-1]["compression"] >= (8 * N_IN + 24) / (5 * 4 + 4 * 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_go_through_normalisation_pooling_and_flattening(backend: str) -> None:
    layers = (
        svd.VariationalConv2d(2, 5, 3, padding=1), svd.BatchNorm(5), svd.ReLU(), svd.MaxPool2d(2),
        svd.Conv2d(5, 4, 2), svd.ReLU(), svd.Flatten(), svd.Dropout(0.2), svd.VariationalDense(4 * 2 * 2, 3),
    )  # fmt: skip
    model = svd.Sequential(*layers, backend=backend, input_shape=(2, 6, 6))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 2, 6, 6)).astype(np.float32)
    for name, array in {**model.parameters, **model.state}.items():
        if "log_sigma2" not in name:
            array[...] = rng.uniform(0.2, 1, array.shape)
    first, second = np.array([0, 3, 4]), np.array([1, 2])
    small = model.take({"conv1": first, "conv2": second})
    assert small.parameters["conv1.theta"].shape == (3, 3, 2, 3) and small.parameters["dense1.theta"].shape == (8, 3)
    np.testing.assert_array_equal(small.state["batch_norm1.running_var"], model.state["batch_norm1.running_var"][first])
    model.parameters["conv2.theta"][:, :, [1, 2]] = 0  # what the lost channels gave
    model.parameters["dense1.theta"].reshape(2, 2, 4, 3)[:, :, [0, 3]] = 0
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"relu1": [0]},), "expected some of the layers with weights"),
        (({"dense1": [8]},), r"expected increasing numbers in \[0, 8\)"),
        (({"dense1": []},), "at least one|got shape"),
        (({"dense1": [3, 1]},), "increasing"),
        (({"dense1": [0.5]},), "whole numbers"),
        (({"dense2": [0, 1]},), "the model's 3 outputs must stay"),
        (([0],), "expected a Mapping"),
        (({}, [12]), r"expected increasing numbers in \[0, 12\)"),
    ],
)
def test_senseless_choices_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(svd.SvdError, match=words):
        make_net().take(*arguments)
