"""Files of networks that describe more than they hold, or hold what no network has, with a valid checksum."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy import kernels
from svd_numpy.files.safe_arrays import CheckpointError, load_model, save_model
from svd_numpy.network import described
from svd_numpy.network.described import check_described


def small_net() -> svd.Sequential:
    layers = svd.VariationalConv2d(1, 2, 3, padding=1), svd.BatchNorm(2), svd.ReLU(), svd.MaxPool2d(2), svd.Flatten()
    return svd.Sequential(*layers, svd.VariationalDense(32, 3), input_shape=(1, 8, 8), backend="numpy")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    small_net().save(path)
    return path


def refused(path: Path) -> str:
    """Load a file that must be refused without much memory; return the message."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            svd.Sequential.load(path, "numpy")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value) and most < 2**23
    return str(caught.value)


DENSE = {"type": "VariationalDense", "name": "d", "bias": True, "theta_std": 0.1, "log_sigma2": -10.0}
HUGE: dict[str, dict[str, Any]] = {
    "weights": {"layers": [{**DENSE, "in_features": 8000, "out_features": 8000}], "input_shape": [8000]},
    "inputs": {"layers": [{"type": "Flatten", "name": "f"}], "input_shape": [2**31]},
    "channels": {
        "layers": [{"type": "BatchNorm", "name": "b", "num_features": 2**31, "eps": 1e-5, "momentum": 0.1}],
        "input_shape": [2**31],
    },
    "many layers of one name": {
        "layers": [{**DENSE, "in_features": 900, "out_features": 900}] * 20, "input_shape": [900],
    },
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_a_few_bytes_cannot_describe_a_huge_network(case: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    rest = {"prior": "ard", "dtype": "float32", "seed": 0, "threshold": 3.0, "likelihood": {"name": "categorical"}}
    save_model(path, {}, {**HUGE[case], **rest})
    refused(path)


def test_padding_counts_as_activations(saved: Path) -> None:
    """Padding takes no space in the file, and kernel and stride can hide it from all shapes after it."""
    arrays, config = load_model(saved)
    config["layers"][0] |= {"padding": [2**15, 2**15], "stride": [2**13, 2**13]}
    save_model(saved, arrays, config)
    assert "activations per example" in refused(saved)


def test_no_weight_is_drawn_before_the_shapes_are_known(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, config = load_model(saved)
    check_described(config, arrays)
    parameters = list(small_net().parameters)
    monkeypatch.setattr(np.random, "default_rng", None)
    for name in [*parameters, "input_mean"]:  # running averages are as large as parameters
        with pytest.raises(svd.SvdValueError, match=name):
            check_described(config, {other: array for other, array in arrays.items() if other != name})


SPOILT: dict[str, tuple[str, Any]] = {
    "NaN": ("dense1.theta", np.float32(np.nan)),
    "infinity": ("conv1.bias", np.float32(np.inf)),
    "log_sigma2": ("conv1.log_sigma2", np.float32(1000)),
    "variance": ("batch_norm1.running_var", np.float64(-1)),
    "mean": ("input_mean", np.float32(np.nan)),
}


@pytest.mark.parametrize("case", SPOILT)
def test_numbers_that_no_network_has_are_refused_when_loaded(case: str, saved: Path) -> None:
    arrays, config = load_model(saved)
    name, value = SPOILT[case]
    arrays[name].flat[-1] = value
    save_model(saved, arrays, config)
    assert name in refused(saved)


def test_numbers_beyond_float32_are_refused_when_loaded(saved: Path) -> None:
    arrays, config = load_model(saved)
    arrays["dense1.theta"] = arrays["dense1.theta"].astype(np.float64)
    arrays["dense1.theta"][0, 0] = 1e300
    save_model(saved, arrays, config)
    assert "dense1.theta" in refused(saved)


@pytest.mark.parametrize("dtype", ["bool", "int32", "uint8"])
def test_only_floats_are_weights(dtype: str, saved: Path) -> None:
    arrays, config = load_model(saved)
    arrays["dense1.theta"] = arrays["dense1.theta"].astype(dtype)
    save_model(saved, arrays, config)
    assert "dense1.theta" in refused(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [1]},
        {"layers": None},
        {"input_shape": 5},
        {"original": [1]},
        {"likelihood": "gaussian"},
        {"seed": -1},
    ],
    ids=str,
)
def test_descriptions_of_nothing(change: dict[str, Any], saved: Path) -> None:
    arrays, config = load_model(saved)
    save_model(saved, arrays, {**config, **change})
    refused(saved)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("dense1.theta", np.nan, "NaN or infinity"),
        ("dense1.theta", np.inf, "NaN or infinity"),
        ("dense1.log_sigma2", 50.0, "expected .*-20, 10"),
        ("input_mean", np.nan, "NaN or infinity"),
    ],
)
def test_what_load_would_refuse_is_not_saved(saved: Path, name: str, value: float, words: str) -> None:
    before = saved.read_bytes()
    model = svd.Sequential.load(saved)
    model.arrays()[name].flat[0] = value
    with pytest.raises(svd.SvdValueError, match=f"save: {name} .*{words}"):
        model.save(saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_network_with_too_many_activations_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "MAX_PLACES", 100)
    with pytest.raises(svd.SvdValueError, match=r"activations per example.*expected at most 100"):
        small_net().save(tmp_path / "net.safetensors")
    assert not any(tmp_path.iterdir())


def test_half_precision_that_overflowed_is_refused_by_name() -> None:
    model = small_net()
    halves = {name: array.astype(np.float16) for name, array in model.parameters.items()}
    model.init_from(halves)
    halves["dense1.theta"][0, 0] = np.inf
    for enter in (model.init_from, lambda arrays: model.load_arrays({**model.arrays(), **arrays})):
        with pytest.raises(svd.SvdValueError, match=r"dense1\.theta"):
            enter(halves)


def test_a_backend_that_cannot_be_used_is_no_damage(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ValueError("Number of threads specified must be > 0.")

    monkeypatch.setitem(kernels._BACKENDS, "broken", kernels._Entry(lambda: "", fail))
    with pytest.raises(ValueError, match=r"^Number of threads") as caught:
        svd.Sequential.load(saved, "broken")
    assert not isinstance(caught.value, CheckpointError)
