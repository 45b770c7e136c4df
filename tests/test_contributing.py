"""The worked examples of CONTRIBUTING.md, run as they stand there, and what each promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy import kernels
from svd_numpy.kernels.priors import PRIORS
from svd_numpy.network.gates import FAMILIES
from svd_numpy.network.layers.base import LAYERS

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (my_\w+)\.py\n(.*?)```", TEXT, re.DOTALL))


LONGER = make_config(epochs=20, finetune_epochs=0, kl_weight=0.05, lr_schedule=((0.0, 1.0),))


@pytest.fixture
def clean() -> Iterator[None]:
    yield
    PRIORS.pop("lenient", None)
    LAYERS.pop("MyGain", None)
    FAMILIES.pop("positive", None)
    kernels._BACKENDS.pop("mine", None)


def run(name: str) -> dict[str, Any]:
    """Run an example as a module of its own."""
    space: dict[str, Any] = {"__name__": name}
    exec(compile(EXAMPLES[name], f"{name}.py", "exec", dont_inherit=True), space)
    return space


def test_all_examples_are_here() -> None:
    assert set(EXAMPLES) == {"my_prior", "my_gain", "my_family", "my_backend"}


def test_a_gate_family_in_one_file(clean: None, capsys: pytest.CaptureFixture[str]) -> None:
    run("my_family")
    report = capsys.readouterr().out
    assert "gate1.log_var" in report and "WRONG" not in report
    model = svd.Sequential(svd.Gate(12, "positive", least=0.5), svd.Dense(12, 3), input_shape=(12,))
    svd.fit(model, make_data(), make_config(), progress=False)
    gate = model.copy().layers[0]
    assert isinstance(gate, svd.Gate) and gate.config()["least"] == 0.5
    assert (gate.factors()[~gate.closed()] >= 0.5).all()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_prior_in_one_file(backend: str, clean: None) -> None:
    run("my_prior")
    model = make_net(backend, prior="lenient")
    records = svd.fit(model, make_data(), LONGER, progress=False)
    assert records[-1]["kl"] < records[0]["kl"] and records[-1]["train_error"] < 0.2
    svd.gradcheck(make_net(prior="lenient", dtype="float64"), make_data().x_test[:5], make_data().y_test[:5])


def test_a_layer_with_a_kl_in_one_file(clean: None, capsys: pytest.CaptureFixture[str]) -> None:
    gain = run("my_gain")["MyGain"]
    report = capsys.readouterr().out
    assert "gain1.gain" in report and "FAIL" not in report.upper()
    model = svd.Sequential(svd.VariationalDense(12, 8), gain(8), svd.ReLU(), svd.VariationalDense(8, 3))
    svd.fit(model, make_data(), make_config(), progress=False)
    small = model.copy().take({"dense1": [0, 1, 5]})
    np.testing.assert_array_equal(small.parameters["gain1.gain"], model.parameters["gain1.gain"][[0, 1, 5]])


def test_a_backends_first_operation(clean: None) -> None:
    run("my_backend")
    assert svd.available_backends()["mine"] == ""
    mine, plain = make_net("mine"), make_net("numpy")
    np.testing.assert_allclose(
        mine.predict(make_data().x_test), plain.predict(make_data().x_test), rtol=1e-5, atol=1e-6
    )
    svd.fit(mine, make_data(), LONGER, progress=False)
    assert svd.evaluate(mine, make_data().x_test, make_data().y_test)["error"] < 0.2
