"""Fine-tuning with rounded weights: steps, gradients that add up, small copies, resumed runs, files, refusals."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import N_CLASSES, N_IN, STEPS_PER_EPOCH, bits, make_config, make_data, make_net, run_log, timeless

import svd_numpy as svd
from svd_numpy.files import checkpoint
from svd_numpy.sparse.storage.layout import find_step
from svd_numpy.train import loop
from svd_numpy.train.pruning import Place
from svd_numpy.train.rounding import Rounder, best_step
from svd_numpy.train.trainer import Trainer

PLACE = Place(STEPS_PER_EPOCH, n_train=110, seed=0)


def dense_net(backend: str = "numpy") -> svd.Sequential:
    """12 - 8 - 3, ordinary weights."""
    return svd.Sequential(svd.Dense(N_IN, 8), svd.ReLU(), svd.Dense(8, N_CLASSES), backend=backend)


@pytest.mark.parametrize("bits", [2, 4, 7, 24])
def test_the_step_of_an_array_is_the_power_of_two_that_moves_it_least(bits: int) -> None:
    rng, codes = np.random.default_rng(bits), 2 ** (bits - 1) - 1
    for values in (rng.normal(size=200), rng.normal(size=5) * 1e-6, rng.standard_cauchy(50), np.array([0.0, 3.0])):

        def distance(step: float, values: Any = values) -> float:
            return float(np.sum((values - step * np.clip(np.rint(values / step), -codes, codes)) ** 2))

        found = best_step(values, bits)
        assert np.frexp(found)[0] == 0.5
        assert distance(found) <= min(distance(2.0**exponent) for exponent in range(-60, 30)) * (1 + 1e-9)


def test_small_moves_of_the_unrounded_numbers_add_up_to_the_next_multiple() -> None:
    model = svd.Sequential(svd.Dense(2, 2), backend="numpy")
    theta, seen = model.parameters["dense1.theta"], []
    theta[...] = [[1.0, -2.0], [3.0, -4.0]]
    rounder = Rounder(model, PLACE, bits=3, start=0)
    for step in range(8):
        rounder.before_forward(step)
        seen.append(theta[0].tolist())
        rounder.before_update(step, lr=0.1)
        theta[0] += 0.11  # as Adam would
        rounder.after_update(step + 1)
    assert seen == [[1, -2]] * 5 + [[2, -1]] * 3  # 1.55 and -1.45 are nearer to the next ones
    np.testing.assert_array_equal(theta[1], [3, -3])  # 3 bits: codes from -3 to 3, and none for -4


def test_before_the_fine_tuning_nothing_changes() -> None:
    histories = []
    for finetune_bits in (None, 3):
        config = make_config(finetune_bits=finetune_bits, remove_above=0.0, remove_from=2)
        histories.append(timeless(svd.fit(make_net(), make_data(), config, progress=False)))
    plain, rounded = histories
    assert plain[:4] == rounded[:4] and plain[4] != rounded[4]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("kind", ["dense", "variational", "convolutional"])
def test_a_rounded_network_loses_nothing_when_it_is_packed(kind: str, backend: str) -> None:
    data, config = make_data(), make_config(finetune_bits=3)
    if kind == "dense":
        model = dense_net(backend)
    elif kind == "variational":
        model = make_net(backend)
    else:
        model = svd.Sequential(
            svd.VariationalConv2d(1, 3, 3), svd.ReLU(), svd.Flatten(), svd.VariationalDense(6, N_CLASSES),
            input_shape=(1, 3, 4), backend=backend,
        )  # fmt: skip
    last = svd.fit(model, data, config, progress=False)[-1]
    for name in (f"{layer}.{own}" for layer in model.alive() for own in ("theta", "bias")):
        values = model.parameters[name]
        assert find_step(values.ravel()) is not None and len(np.unique(np.abs(values))) <= 4, name
    small = svd.unpack(svd.pack(svd.compress(model)))
    np.testing.assert_allclose(small.predict(data.x_test), model.predict(data.x_test), atol=1e-6)
    assert np.mean(small.predict(data.x_test).argmax(axis=1) != data.y_test) == last["test_error"]


def test_only_the_arrays_that_are_named_are_rounded() -> None:
    model = make_net()
    svd.fit(model, make_data(), make_config(finetune_bits={"dense1.theta": 2}), progress=False)
    counts = {name: len(np.unique(np.abs(model.parameters[f"{name}.theta"]))) for name in ("dense1", "dense2")}
    assert counts["dense1"] <= 2 < counts["dense2"]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_small_copy_is_rounded_as_the_network_would_be(backend: str) -> None:
    """With removal, steps are done on a copy with what is left; without, on all, held at 0."""
    start, data, ends = make_net(backend), make_data(), []
    svd.fit(start, data, make_config(finetune_epochs=0), progress=False)
    for remove_above in (None, 50.0):
        model = make_net(backend)
        model.load_arrays(start.arrays())
        config = make_config(epochs=0, finetune_epochs=3, finetune_bits=4, remove_above=remove_above)
        trainer = Trainer(model, data, config)
        assert trainer.removes == (remove_above is not None)
        svd.fit(model, data, config, progress=False)
        ends.append(model)
    assert (ends[0].arena.mask == 0).any()
    for name in ("dense1", "dense2"):
        np.testing.assert_array_equal(*(model.parameters[f"{name}.theta"] for model in ends))
        np.testing.assert_array_equal(*(model.parameters[f"{name}.bias"] for model in ends))


@pytest.mark.parametrize("noise", [{}, {"finetune_kl": 0.3}])
@pytest.mark.parametrize("remove_above", [None, 0.5])
@pytest.mark.parametrize("step", [13, 4 * STEPS_PER_EPOCH, 21, 25, 28])
def test_a_stopped_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, remove_above: float | None, noise: dict[str, float]
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    config, whole = make_config(finetune_bits=4, remove_above=remove_above, remove_from=1, **noise), make_net()
    history = svd.fit(whole, make_data(), config, progress=False)
    original = Trainer.step

    def stopping(self: Trainer, *given: Any) -> None:
        original(self, *given)
        if self.progress.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(svd.TrainingInterrupted):
        svd.fit(make_net(), make_data(), config, run_dir=tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "step", original)
    assert checkpoint.load(tmp_path / "checkpoints").step == step
    again = make_net()
    svd.fit(again, make_data(), config, run_dir=tmp_path, resume=True, progress=False)
    assert bits(again) == bits(whole)
    assert run_log(tmp_path) == timeless(history)


def test_training_with_rounding_beats_rounding_afterwards() -> None:
    data, errors = svd.load("digits"), {}
    for name, finetune_bits in (("afterwards", None), ("aware", 2)):
        model = svd.Sequential(svd.Dense(784, 24), svd.ReLU(), svd.Dense(24, 10), backend="numpy")
        config = svd.TrainConfig(epochs=4, batch_size=50, lr=3e-3, finetune_epochs=4, finetune_bits=finetune_bits)
        svd.fit(model, data, config, progress=False)
        for view in model.parameters.values():
            step = best_step(view, bits=2)
            view[...] = step * np.clip(np.rint(view / step), -1, 1)
        errors[name] = float(np.mean(model.predict(data.x_test).argmax(axis=1) != data.y_test))
    assert errors["aware"] < 0.5 * errors["afterwards"]


def gated_net() -> svd.Sequential:
    """12 gates, 12 - 3."""
    return svd.Sequential(svd.Gate(N_IN), svd.Dense(N_IN, N_CLASSES), input_shape=(N_IN,), backend="numpy")


def letters_net(**options: Any) -> svd.Sequential:
    """Five letters, 4 units, 5."""
    layers = svd.VariationalLSTM("abcde", 4, tokens=True, **options), svd.VariationalDense(4, 5)
    return svd.Sequential(*layers, backend="numpy", input_shape=(6,))


def grouped_net() -> svd.Sequential:
    """The same, with groups of recurrent weights."""
    return letters_net(groups=("units",))


def test_recurrent_weights_are_rounded_too() -> None:
    model = letters_net()
    Rounder(model, PLACE, bits=3, start=0).before_forward(0)
    for name in (f"{layer}.{own}" for layer in model.alive() for own in ("theta", "bias")):
        assert len(np.unique(np.abs(model.parameters[name]))) <= 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_config(finetune_bits=1), "got 1 for finetune_bits, expected 2 to 24"),
        (lambda: make_config(finetune_bits={"dense1.theta": 4.5}), "got 4.5 for dense1.theta, expected a whole number"),
        (lambda: make_config(finetune_bits=4, finetune_epochs=0), "expected finetune_epochs >= 1"),
        (lambda: Trainer(make_net(), make_data(), make_config(finetune_bits={"dense9.bias": 4})), "dense9.bias"),
        (lambda: Trainer(gated_net(), make_data(), make_config(finetune_bits=4)), r"layers \['gate1'\] have factors"),
        (lambda: Rounder(grouped_net(), PLACE, 4, 0), r"layers \['lstm1'\] have factors"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, words: str) -> None:
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
        make()
    assert svd.TrainConfig(**make_config(finetune_bits={"a.theta": 4}).to_json()).finetune_bits == {"a.theta": 4}


def test_an_experiment_can_round_in_its_fine_tuning(tmp_path: Path) -> None:
    result = svd.train_mnist(
        dataset="digits", recipe="small", backend="numpy", epochs=2, finetune_bits=3, run_dir=tmp_path, progress=False
    )
    for layer in result.model.alive():
        assert len(np.unique(np.abs(result.model.parameters[f"{layer}.theta"]))) <= 4
    small = svd.unpack(svd.pack(svd.compress(svd.Sequential.load(tmp_path / "model.safetensors"))))
    x = svd.load("digits").x_test
    np.testing.assert_allclose(small.predict(x), result.model.predict(x), atol=1e-5)
