"""Copies and pickles of networks and results, which other tools make, and a second `fit` of one network."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import N_IN, bits, make_config, make_data, make_net

import svd_numpy as svd

WAYS: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
by_every_way = pytest.mark.parametrize("again", WAYS, ids=["copy", "deepcopy", "pickle"])


# ---- copies


@by_every_way
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_network(again: Callable[[Any], Any], backend: str) -> None:
    model, x = make_net(backend, input_mean=np.full(N_IN, 0.5), threshold=2.0), make_data().x_train
    svd.fit(model, make_data(), make_config(epochs=1), progress=False)
    wanted, before = model.predict(x), bits(model)
    other = again(model)
    assert type(other) is svd.Sequential and other.config() == model.config() and other.backend.name == backend
    np.testing.assert_array_equal(other.predict(x), wanted)
    svd.fit(other, make_data(), make_config(epochs=1), progress=False)
    assert bits(other) != before == bits(model)


@by_every_way
def test_a_regression_in_float64_with_chosen_inputs(again: Callable[[Any], Any]) -> None:
    likelihood = svd.Gaussian(0.25)
    model = svd.Sequential(
        svd.VariationalDense(2, 1), backend="numpy", dtype="float64", likelihood=likelihood, input_shape=(3,),
        input_columns=[0, 2],
    )  # fmt: skip
    other = again(model)
    assert (other.likelihood, other.dtype, list(other.input_columns)) == (likelihood, np.float64, [0, 2])
    assert bits(other) == bits(model)


@by_every_way
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_compact_network(again: Callable[[Any], Any], backend: str) -> None:
    small, x = svd.compress(make_net(), backend=backend), make_data().x_train
    other = again(small)
    assert other.backend.name == backend and str(other) == str(small)
    np.testing.assert_array_equal(other.predict(x), small.predict(x))


@by_every_way
def test_a_result(again: Callable[[Any], Any], tmp_path: Path) -> None:
    result = svd.train_mnist(dataset="digits", epochs=1, progress=False)
    other = again(result)
    assert other.history == result.history and str(other) == str(result) and other.test_error == result.test_error
    assert bits(other.model) == bits(result.model)


def test_a_network_is_copied_between_steps_of_a_training_in_another_thread() -> None:
    model, copies = make_net(), list[svd.Sequential]()
    thread = threading.Thread(target=svd.fit, args=(model, make_data(), make_config(epochs=8), [
        lambda *_: copies.append(pickle.loads(pickle.dumps(model)))
    ]), kwargs={"progress": False})  # fmt: skip
    thread.start()
    thread.join(60)
    assert len(copies) == make_config(epochs=8).total_epochs and bits(copies[-1]) == bits(model) != bits(copies[0])
    svd.fit(copies[0], make_data(), make_config(epochs=1), progress=False)  # a copy is not being fitted


# ---- a second `fit`


def test_a_network_that_is_being_fitted_is_refused_and_the_first_fit_is_not_disturbed(tmp_path: Path) -> None:
    data, config = make_data(), make_config(epochs=4)
    alone, model = make_net(), make_net()
    svd.fit(alone, data, config, progress=False)
    refused = list[str]()

    def second() -> None:
        with pytest.raises(svd.SvdError, match="being fitted already") as error:
            svd.fit(model, data, make_config(epochs=1), run_dir=tmp_path / "run", progress=False)
        refused.append(str(error.value))

    def in_a_callback(*_: Any) -> None:
        other = threading.Thread(target=second)
        other.start()
        other.join(30)
        second()
        model.predict(data.x_test)

    svd.fit(model, data, config, [in_a_callback], progress=False)
    assert (
        len(refused) == 2 * config.total_epochs and "Sequential.copy" in refused[0] and not (tmp_path / "run").exists()
    )
    assert bits(model) == bits(alone)


def test_after_a_fit_that_failed_a_network_can_be_fitted() -> None:
    model = make_net()

    def fail(*_: Any) -> None:
        raise KeyError("of mine")

    with pytest.raises(KeyError, match="of mine"):
        svd.fit(model, make_data(), make_config(epochs=2), [fail], progress=False)
    with pytest.raises(KeyError, match="of mine"):
        svd.fit(model, make_data(), make_config(epochs=2), [fail], progress=False)
