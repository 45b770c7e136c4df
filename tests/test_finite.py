"""Never a NaN: whatever inputs and weights are, numbers are finite or the call says that they cannot be."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_runs import make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.train.trainer import Trainer

Array = NDArray[Any]
BACKENDS = ["numpy", "numba"]
PRIORS = ["log_uniform", "log_uniform_exact", "ard"]
N_IN, N_OUT = 6, 3
LOW, HIGH = -20.0, 10.0  # where log_sigma2 is projected to


def build(backend: str, prior: str, theta: float, log_sigma2: float, seed: int = 0) -> svd.Sequential:
    """6 - 5 - 5 - 3 with weights of one magnitude, a third of them exactly 0."""
    layers: list[Any] = [
        svd.VariationalDense(N_IN, 5),
        svd.ReLU(),
        svd.VariationalDense(5, 5),
        svd.ReLU(),
        svd.VariationalDense(5, N_OUT),
    ]
    model = svd.Sequential(*layers, backend=backend, prior=prior)
    rng = np.random.default_rng(seed)
    for layer in model.variational_layers:
        layer.theta[...] = theta * rng.choice([-1, 0, 1], layer.theta.shape)
        layer.log_sigma2[...] = log_sigma2
    return model


def as_data(x: Array, y: Array) -> Dataset:
    return Dataset("hard", x, y, x, y, None, N_OUT, "made here")


def finite_or_refused(model: svd.Sequential, x: Array, y: Array) -> bool:
    """Do everything with the model; return whether all was finite: False where a call said why not."""
    try:
        loss, grads = model.loss_and_grads(x, y, len(x))
        assert np.isfinite(loss) and all(np.isfinite(gradient).all() for gradient in grads.values())
        assert np.isfinite(model.predict(x)).all() and np.isfinite(model.sample(x, 2)).all()
        assert np.isfinite(model.predict_proba(x)).all()
        history = svd.fit(model, as_data(x, y), svd.TrainConfig(epochs=2, batch_size=3, lr=0.1), progress=False)
    except ValueError as error:
        assert "scale inputs and targets" in str(error)
        return False
    assert model.arena.share_non_finite() == 0 and history[-1]["non_finite"] == 0
    assert all(layer.log_sigma2.min() >= LOW and layer.log_sigma2.max() <= HIGH for layer in model.variational_layers)
    assert np.isfinite(model.predict(x)).all()
    return True


HARD_INPUTS: dict[str, Array] = {
    "zeros": np.zeros((7, N_IN)),
    "ones": np.ones((7, N_IN)),
    "one row": np.linspace(-1, 1, N_IN)[None],
    "one row of zeros": np.zeros((1, N_IN)),
    "large": np.full((7, N_IN), 1e15),
    "small": np.full((7, N_IN), -1e-15),
    "subnormal": np.full((7, N_IN), 1e-40),
    "subnormal in float64": np.full((7, N_IN), 5e-324),
    "all magnitudes": np.outer([1, -1, 2, -2, 3, -3, 4], 10.0 ** np.arange(-15, 15, 5)),
    "one hot column": np.eye(7, N_IN) * 1e15,
    "negative": np.full((7, N_IN), -3.0),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("log_sigma2", [LOW, -10.0, HIGH])
@pytest.mark.parametrize("theta", [0.0, 1e-25, 0.5, 1e3])
def test_hard_inputs_and_weights(backend: str, theta: float, log_sigma2: float) -> None:
    """What is refused is only the very large, with noise or weights that are very large, too."""
    for name, values in HARD_INPUTS.items():
        x = values.astype(np.float32)
        for y in (np.arange(len(x)) % N_OUT, np.zeros(len(x), int)):
            for prior in PRIORS if name in ("zeros", "all magnitudes") else PRIORS[:1]:
                fine = finite_or_refused(build(backend, prior, theta, log_sigma2), x, y)
                assert fine or (np.abs(x).max() >= 1e10 and (theta > 100 or log_sigma2 == HIGH)), (
                    name,
                    prior,
                )


MAGNITUDES = st.one_of(st.just(0.0), st.floats(-15, 15).map(lambda e: 10.0**e))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 9),
    x_size=MAGNITUDES,
    theta=MAGNITUDES,
    log_sigma2=st.floats(LOW, HIGH),
    prior=st.sampled_from(PRIORS),
    seed=st.integers(0, 1000),
)
def test_any_magnitude(
    backend: str, rows: int, x_size: float, theta: float, log_sigma2: float, prior: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (x_size * rng.uniform(-1, 1, (rows, N_IN)) * rng.choice([0, 1], N_IN)).astype(np.float32)
    y = rng.integers(0, N_OUT, rows)
    fine = finite_or_refused(build(backend, prior, theta, log_sigma2, seed), x, y)
    if x_size <= 1e4 and theta <= 1e2:
        assert fine  # nothing reasonable is refused


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("std", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("size", [0.0, 1e-15, 1.0, 1e15])
def test_hard_regression_targets(backend: str, std: float, size: float) -> None:
    model = svd.Sequential(
        svd.VariationalDense(3, 4),
        svd.ReLU(),
        svd.VariationalDense(4, 1),
        backend=backend,
        likelihood=svd.Gaussian(std),
    )
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    y = np.full((6, 1), size)
    try:
        loss, grads = model.loss_and_grads(x, y, 6)
        assert np.isfinite(loss) and all(np.isfinite(gradient).all() for gradient in grads.values())
        data = Dataset("hard", x, y, x, y, None, 0, "made here")
        svd.fit(model, data, svd.TrainConfig(epochs=3, batch_size=4), progress=False)
        assert model.arena.share_non_finite() == 0 and np.isfinite(model.predict(x)).all()
    except ValueError as error:
        assert "scale inputs and targets" in str(error) and size / std > 1e15


@pytest.mark.parametrize("backend", BACKENDS)
def test_dead_units_and_constant_columns_train_on(backend: str) -> None:
    """A layer whose units are all dead passes no gradient; the KL still moves its weights, nothing breaks."""
    model = build(backend, "log_uniform", 0.5, LOW)
    model.parameters["dense1.bias"][:] = -1e6
    x = np.tile(np.array([0, 1, 0, 255, 0, 1], np.float32), (9, 1))
    assert finite_or_refused(model, x, np.arange(9) % N_OUT)
    outputs = model.predict(x)
    np.testing.assert_array_equal(outputs, np.tile(outputs[:1], (9, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("edge", [LOW, HIGH])
def test_log_sigma2_stays_inside_its_bounds(backend: str, edge: float) -> None:
    model = build(backend, "log_uniform", 1e-3, edge)
    x = np.random.default_rng(0).normal(size=(20, N_IN)).astype(np.float32)
    config = svd.TrainConfig(epochs=30, batch_size=20, lr=1.0, kl_schedule=((0, 10.0),))
    svd.fit(model, as_data(x, np.arange(20) % N_OUT), config, progress=False)
    for layer in model.variational_layers:
        assert layer.log_sigma2.min() >= LOW and layer.log_sigma2.max() <= HIGH
    assert model.arena.share_non_finite() == 0


def test_moments_do_not_stay_subnormal() -> None:
    """Without a gradient the moments of a weight decay; each subnormal one would slow every later step."""
    model, data = make_net("numba"), make_data()
    config = make_config(epochs=400, finetune_epochs=0, kl_schedule=((0, 1), (3, 0)), lr_schedule=((0, 1),), beta2=0.9)
    trainer = Trainer(model, data, config)
    for step in range(2000):
        if step == 10:  # from here on no unit is alive, and the KL is soon without weight: all gradients are 0
            model.parameters["dense1.bias"][:] = -1e6
        trainer.step()
    tiny = np.finfo(np.float32).tiny
    for moment in (model.arena.m, model.arena.v):
        assert not ((moment != 0) & (np.abs(moment) < tiny)).any()
    first = model.arena.views["dense1.theta"].size
    assert not model.arena.m[:first].any() and not model.arena.v[:first].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("lr", "kl_weight"), [(1e-2, 10.0), (0.5, 1.0), (10.0, 100.0)])
def test_fierce_training_stays_finite(backend: str, lr: float, kl_weight: float) -> None:
    model = make_net(backend)
    config = make_config(epochs=40, lr=lr, lr_schedule=((0, 1),), kl_schedule=((0, kl_weight),), train_mask=True)
    history = svd.fit(model, make_data(), config, progress=False)
    assert all(record["non_finite"] == 0 for record in history)
    assert all(np.isfinite([record["nll"], record["kl"]]).all() for record in history)


# ---- the long campaign, briefly


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "campaigns" / "finite.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("finite", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_campaign_runs_reports_and_resumes(
    tmp_path: Path, campaign: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ["--steps", "200", "--dataset", "digits", "--out", str(tmp_path)]
    assert len(campaign.CASES) == 6
    assert campaign.main([*steps, "--cases", "lr=0.01,kl=10"]) == 0
    content = json.loads((tmp_path / "finite.json").read_text())
    (case,) = content["cases"].values()
    assert (case["lr"], case["kl_weight"], case["steps"], case["checks"]) == (0.01, 10.0, 200, 2)
    assert case["non_finite"] == 0 and case["stopped"] == "" and 0 <= case["test_error"] < 0.95
    assert 0 < case["largest_nll"] < 1e6 and case["dataset"] == "digits" and case["seed"] == 0
    report = (tmp_path / "finite.md").read_text()
    for words in (
        "**none**",
        "| 0.01 | 10 | 200 | 0 |",
        "python campaigns/finite.py --steps 200",
        content["date"],
    ):
        assert words in report
    real = campaign.run_case
    monkeypatch.setattr(campaign, "run_case", lambda data, *case: {**real(data, *case[:2], 2), "steps": case[2]})
    assert campaign.main([*steps, "--cases", "lr=0.01,kl=10", "lr=0.0001,kl=1"]) == 0  # the first is not run again
    again = json.loads((tmp_path / "finite.json").read_text())["cases"]
    assert list(again) == ["lr=0.0001,kl=1", "lr=0.01,kl=10"] and again["lr=0.01,kl=10"] == case


def test_the_campaign_tells_of_a_failure(tmp_path: Path, campaign: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    build = campaign.build

    def broken(*arguments: Any) -> svd.Sequential:
        model = build(*arguments[:3], "numpy")
        model.parameters["dense2.bias"][3] = np.nan
        return model

    monkeypatch.setattr(campaign, "build", broken)
    assert (
        campaign.main(["--steps", "3", "--dataset", "digits", "--out", str(tmp_path), "--cases", "lr=0.001,kl=1"]) == 1
    )
    report = (tmp_path / "finite.md").read_text()
    assert "1 of 1 cases" in report and "lr=0.001,kl=1: step 0: the loss is nan" in report
    with pytest.raises(SystemExit):
        campaign.main(["--steps", "0", "--out", str(tmp_path)])
