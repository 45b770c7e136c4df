"""A finished run is extended: what the longer run equals, its log, its interruptions, and what is refused."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import STEPS_PER_EPOCH, bits, make_config, make_data, make_net, run_log, timeless

import svd_numpy as svd
from svd_numpy.train import loop as train
from svd_numpy.train.trainer import Trainer

FLAT: dict[str, Any] = {"finetune_epochs": 0, "eval_every": 1, "lr_schedule": ((0.0, 1.0),)}


def go(run_dir: Path, config: svd.TrainConfig, resume: bool = True) -> svd.Sequential:
    model = make_net()
    svd.fit(model, make_data(), config, run_dir=run_dir, resume=resume, progress=False)
    return model


def test_with_a_flat_learning_rate_it_is_the_longer_run(tmp_path: Path) -> None:
    go(tmp_path, make_config(**FLAT), resume=False)
    longer = make_config(**FLAT | {"epochs": 9})
    assert make_config(**FLAT).extended(5) == longer
    model, whole = go(tmp_path, longer), make_net()
    history = svd.fit(whole, make_data(), longer, progress=False)
    assert bits(model) == bits(whole) and run_log(tmp_path) == timeless(history)


def test_more_epochs_of_fine_tuning(tmp_path: Path) -> None:
    config = make_config()
    first = go(tmp_path, config, resume=False)
    before = run_log(tmp_path)
    model = go(tmp_path, config.extended(3))
    log = run_log(tmp_path)
    assert log[:6] == before and [record["stage"] for record in log[6:]] == ["finetune"] * 3
    # Three of five epochs are left when it goes on: the rate is on the line from .005 to 0 over all five of them.
    rates = [0.005 * (3 - epoch + 1 / STEPS_PER_EPOCH) / 5 for epoch in (1, 2, 3)]
    assert [record["lr"] for record in log[6:]] == pytest.approx(rates)
    dead = first.parameters["dense1.theta"] == 0
    assert dead.any() and (model.parameters["dense1.theta"][dead] == 0).all()
    assert bits(model) != bits(first)


def test_a_learning_rate_that_fell_until_the_end_falls_until_the_new_end() -> None:
    config = make_config(finetune_epochs=0)
    assert config.extended(4).lr_schedule == ((2.0, 1.0), (8.0, 0.2))
    assert config.extended(1).extended(3) == config.extended(4)
    assert config.extended(4).kl_schedule == config.kl_schedule
    early = make_config(finetune_epochs=0, lr_schedule=((1.0, 1.0), (3.0, 0.2)))
    assert early.extended(4).lr_schedule == early.lr_schedule
    assert config.extended(0) == config
    with pytest.raises(svd.SvdValueError, match="extended: got -1"):
        config.extended(-1)


@pytest.mark.parametrize("step", [6 * STEPS_PER_EPOCH + 1, 7 * STEPS_PER_EPOCH, 8 * STEPS_PER_EPOCH + 2])
def test_an_extension_is_itself_resumed_and_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    config = make_config()
    for name in ("whole", "stopped"):
        go(tmp_path / name, config, resume=False)
    whole = go(tmp_path / "whole", config.extended(3))
    original = Trainer.step

    def stop(self: Trainer) -> None:
        original(self)
        if self.progress.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", stop)
    with pytest.raises(svd.TrainingInterrupted):
        go(tmp_path / "stopped", config.extended(3))
    monkeypatch.setattr(Trainer, "step", original)
    with pytest.raises(svd.SvdValueError, match=r"differs in \['finetune_epochs'\]"):
        go(tmp_path / "stopped", config)  # it is no longer the shorter run
    with pytest.raises(svd.SvdValueError, match=r"at step \d+ of 45; let it finish .* extended by 1 epochs"):
        go(tmp_path / "stopped", config.extended(4))
    assert bits(go(tmp_path / "stopped", config.extended(3))) == bits(whole)
    assert run_log(tmp_path / "stopped") == run_log(tmp_path / "whole")
    assert bits(go(tmp_path / "stopped", config.extended(4))) != bits(whole)


@pytest.mark.parametrize("change", [{"lr": 0.02}, {"batch_size": 20}, {"finetune_lr": 0.1}, {"epochs": 5}])
def test_nothing_else_may_change(tmp_path: Path, change: dict[str, Any]) -> None:
    go(tmp_path, make_config(), resume=False)
    with pytest.raises(svd.SvdValueError, match=r"resume: the run in .* has another config"):
        go(tmp_path, make_config(**change).extended(3))


def test_an_experiment_is_extended(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": "digits", "epochs": 2, "run_dir": tmp_path, "backend": "numba"}
    first = svd.train_mnist(**options, progress=False)
    longer = svd.train_mnist(**options, resume=True, extend=2, progress=False)
    assert [record["epoch"] for record in longer.history] == [1, 2, 3, 4, 5]
    assert timeless(longer.history)[:3] == timeless(first.history)
    again = svd.train_mnist(**options, resume=True, extend=2, progress=False)
    assert again.history == longer.history and again.test_error == longer.test_error
    np.testing.assert_array_equal(
        svd.Sequential.load(tmp_path / "model.safetensors").parameters["dense3.theta"],
        longer.model.parameters["dense3.theta"],
    )
