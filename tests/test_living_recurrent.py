"""Removal in recurrent networks: the outputs stay, units leave together, and a run goes on to the same bits."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import bits, run_log, timeless

import svd_numpy as svd
from svd_numpy.data.text import text_dataset
from svd_numpy.network.living import LivingCopy, count_living, remove
from svd_numpy.train.console import TrainingInterrupted
from svd_numpy.train.runner import LivingRunner

STACKS: dict[str, Any] = {
    "letters": lambda: [svd.VariationalLSTM(6, 10, tokens=True), svd.VariationalDense(10, 6)],
    "words": lambda: [
        svd.VariationalEmbedding(6, 8, padding=0), svd.VariationalGRU(8, 10), svd.VariationalLSTM(10, 7),
        svd.VariationalDense(7, 6),
    ],
    "dense in front": lambda: [
        svd.VariationalEmbedding(6, 8), svd.VariationalDense(8, 9), svd.ReLU(), svd.VariationalGRU(9, 10),
        svd.VariationalDense(10, 6),
    ],
    "last step": lambda: [
        svd.VariationalEmbedding(6, 8, padding=0), svd.Gate(8), svd.VariationalLSTM(8, 12, every_step=False),
        svd.VariationalDense(12, 6),
    ],
}  # fmt: skip


def emptied(stack: str, share: float, seed: int) -> svd.Sequential:
    """A network most of whose weights are dead, of some units all."""
    model = svd.Sequential(*STACKS[stack](), backend="numpy", dtype="float64", input_shape=(9,), seed=seed)
    rng = np.random.default_rng(seed)
    for name, array in model.parameters.items():
        if name.endswith("log_sigma2"):
            array[rng.random(array.shape) < share] = 9
            array[:, rng.random(array.shape[1]) < 0.3] = 9
        elif name.endswith("bias"):
            array += rng.standard_normal(array.shape)
        elif name.endswith("log_var"):
            array[rng.random(array.shape) < 0.4] = 4
    return model


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("stack", STACKS)
def test_removal_changes_no_output_and_the_copy_has_fewer_units(stack: str, share: float, seed: int) -> None:
    model = emptied(stack, share, seed)
    x = np.random.default_rng(1).integers(0, 6, (5, 9))
    before = model.predict(x)
    assert remove(model, model.threshold) > 0
    np.testing.assert_allclose(model.predict(x), before, rtol=1e-9, atol=1e-12)
    copy = LivingCopy(model)
    np.testing.assert_allclose(copy.model.predict(x), before, rtol=1e-9, atol=1e-12)
    assert copy.model.arena.params.size < model.arena.params.size
    assert count_living(copy.model) == count_living(model)


def test_units_are_taken_with_all_their_gates() -> None:
    model = svd.Sequential(svd.GRU(5, 4, tokens=True), svd.Dense(4, 5), backend="numpy", input_shape=(6,))
    for name in ("gru1.theta", "dense1.theta"):
        model.parameters[name][-4:][[0, 2]] = 0  # nothing reads units 0 and 2
    x = np.random.default_rng(0).integers(0, 5, (3, 6))
    small = model.take({"gru1": [1, 3]})
    assert small.layers[0].units == 2 and small.parameters["gru1.bias"].shape == (8,)
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-5, atol=1e-7)
    with pytest.raises(svd.SvdValueError, match="reads tokens, which are numbered"):
        model.take({}, inputs=[0, 1])


# ---- training ----


def text_run(backend: str, run_dir: Path | None = None, resume: bool = False) -> tuple[Any, list[dict[str, Any]]]:
    text = "".join(f"{k} times {k + 1} is {k * (k + 1)}. " for k in range(60))
    data = text_dataset(text, lanes=4, steps=10)
    layers = svd.VariationalLSTM(data.vocabulary, 12, tokens=True), svd.VariationalDense(12, data.n_classes)
    model = svd.Sequential(*layers, backend=backend, input_shape=(10,), seed=1)
    config = svd.TrainConfig(
        5, 4, 1e-2, kl_weight=40.0, clip_norm=1.0, remove_above=3.0, remove_from=1, finetune_epochs=1
    )
    return model, svd.fit(model, data, config, run_dir=run_dir, resume=resume, progress=False)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("step", [20, 57])
def test_stopped_in_an_epoch_it_goes_on_to_the_same_bits_with_its_states(
    backend: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, records = text_run(backend)
    living = [record["living"] for record in records]
    assert living == sorted(living, reverse=True) and living[-1] < living[0] / 2
    assert whole.parameters["lstm1.theta"].shape[1] == 48
    original, done = LivingRunner.advance, []

    def stopped(runner: LivingRunner, limit: int) -> None:
        original(runner, limit)
        done.append(1)
        if len(done) == step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LivingRunner, "advance", stopped)
        with pytest.raises(TrainingInterrupted):
            text_run(backend, tmp_path)
    model, _ = text_run(backend, tmp_path, resume=True)
    assert bits(model) == bits(whole) and run_log(tmp_path) == timeless(records)
