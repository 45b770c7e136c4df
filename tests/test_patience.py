"""Early stopping: which epochs are watched, which weights remain, and the same bits after any interruption."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import bits, make_config, make_data, make_net, run_log, timeless

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.tabular.networks import estimate_noise
from svd_numpy.train import loop as train
from svd_numpy.train.trainer import Trainer

PER_EPOCH = 2  # steps


def noisy_data() -> Dataset:
    """Few rows and wrong labels: soon learnt by heart, so that the validation NLL rises."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 140)
    x = rng.normal(size=(140, 12)).astype(np.float32)
    x[:, :3] += 2 * np.eye(3)[y]
    y[::4] = rng.integers(0, 3, 35)
    return Dataset("own", x[:80], y[:80], x[80:], y[80:], None, 3, "made here").split(40)


def config(**changes: Any) -> svd.TrainConfig:
    settings = {"epochs": 200, "batch_size": 20, "lr": 0.03, "kl_schedule": ((0.0, 0.0), (4.0, 0.02)), "patience": 6}
    return svd.TrainConfig(**(settings | {"eval_every": 1} | changes))


def best_epoch(history: list[dict[str, Any]], after: float) -> int:
    watched = [record for record in history if record["epoch"] > after and record["valid_nll"] is not None]
    return int(min(watched, key=lambda record: (record["valid_nll"], record["epoch"]))["epoch"])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_it_stops_and_keeps_the_best(backend: str) -> None:
    data, model, weights = noisy_data(), make_net(backend), {}

    def remember(trainer: Trainer, record: dict[str, Any]) -> None:
        weights[record["epoch"]] = bits(trainer.model)

    history = svd.fit(model, data, config(), [remember], progress=False)
    best = best_epoch(history, 4)
    assert len(history) == best + 6 < 200
    assert bits(model) == weights[best] != weights[len(history)]
    score = svd.evaluate(model, data.x_valid, data.y_valid)
    assert score["nll"] == pytest.approx(history[best - 1]["valid_nll"], rel=1e-6)
    assert score["nll"] < history[-1]["valid_nll"]


def test_until_it_stops_it_is_the_run_without_patience() -> None:
    history = svd.fit(make_net(), noisy_data(), config(), progress=False)
    plain = svd.fit(make_net(), noisy_data(), config(patience=0, epochs=len(history)), progress=False)
    assert timeless(history) == timeless(plain)


def test_only_the_last_stage_is_watched() -> None:
    """The dense networks of the first epochs are better; they are not what was asked for."""
    settings = config(kl_schedule=((20, 0), (25, 30)), epochs=40, lr=0.01, patience=100)
    model, weights, data = make_net(), {}, make_data().split(30)

    def remember(trainer: Trainer, record: dict[str, Any]) -> None:
        weights[record["epoch"]] = bits(trainer.model)

    history = svd.fit(model, data, settings, [remember], progress=False)
    best = best_epoch(history, 25)
    assert history[19]["valid_nll"] < 0.3 < history[best - 1]["valid_nll"]
    assert bits(model) == weights[best]
    fine = config(epochs=6, finetune_epochs=60, finetune_lr=0.02, finetune_threshold=3.0, patience=4)
    history = svd.fit(model := make_net(), noisy_data(), fine, progress=False)
    assert [record["stage"] for record in history[:7]] == ["variational"] * 6 + ["finetune"]
    assert len(history) == best_epoch(history, 6) + 4 < 66
    assert model.arena.mask.min() == 0


def test_epochs_that_are_not_measured_are_passed_over() -> None:
    history = svd.fit(make_net(), noisy_data(), config(eval_every=3), progress=False)
    best = best_epoch(history, 4)
    assert best % 3 == 0 and len(history) == best + 6


def test_the_noise_of_the_target_belongs_to_the_weights() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 5)).astype(np.float32)
    y = (x[:, :1] + rng.standard_normal((90, 1))).astype(np.float32)
    data = Dataset("line", x[:60], y[:60], x[60:], y[60:], None, 0, "made here").split(30)
    layers = svd.VariationalDense(5, 20), svd.ReLU(), svd.VariationalDense(20, 1)
    model = svd.Sequential(*layers, backend="numpy", likelihood="gaussian")
    history = svd.fit(model, data, config(), [estimate_noise], progress=False)
    best = history[best_epoch(history, 4) - 1]
    score = svd.evaluate(model, data.x_valid, data.y_valid)
    assert score == {"error": pytest.approx(best["valid_error"]), "nll": pytest.approx(best["valid_nll"])}


def test_running_averages_belong_to_the_weights() -> None:
    layers = svd.VariationalDense(12, 8), svd.BatchNorm(8), svd.ReLU(), svd.VariationalDense(8, 3)
    model, data = svd.Sequential(*layers, backend="numpy"), noisy_data()
    history = svd.fit(model, data, config(), progress=False)
    best = history[best_epoch(history, 4) - 1]
    assert svd.evaluate(model, data.x_valid, data.y_valid)["nll"] == pytest.approx(best["valid_nll"])


@pytest.mark.parametrize("before_end", [1, 2, 5, 8, 13])
def test_interrupted_anywhere_it_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_end: int
) -> None:
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    whole = make_net()
    history = svd.fit(whole, noisy_data(), config(), progress=False)
    stop, original = PER_EPOCH * len(history) - before_end, Trainer.step

    def step(self: Trainer) -> None:
        original(self)
        if self.progress.step == stop:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(svd.TrainingInterrupted):
        svd.fit(make_net(), noisy_data(), config(), run_dir=tmp_path, progress=False)
    monkeypatch.setattr(Trainer, "step", original)
    for _ in range(2):  # the second time it is finished
        model = make_net()
        svd.fit(model, noisy_data(), config(), run_dir=tmp_path, resume=True, progress=False)
        assert bits(model) == bits(whole)
        assert run_log(tmp_path) == timeless(history)
    with pytest.raises(svd.SvdValueError, match=r"another config \(differs in \['patience'\]"):
        svd.fit(make_net(), noisy_data(), config(patience=7), run_dir=tmp_path, resume=True, progress=False)


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(svd.SvdValueError, match="patience: got 6, but data 'own' has no validation rows"):
        rows = noisy_data()
        plain = Dataset("own", rows.x_train, rows.y_train, rows.x_test, rows.y_test, None, 3, "")
        svd.fit(make_net(), plain, config(), progress=False)
    with pytest.raises(svd.SvdValueError, match="eval_every=0, so no epoch is measured"):
        config(eval_every=0)
    with pytest.raises(svd.SvdValueError, match="kl_schedule changes until epoch 200, so none of 200 epochs"):
        config(kl_schedule=((0, 0), (200, 1)))
    assert config(kl_schedule=((0, 0), (200, 1)), kl_weight=0).watched_from == 0
    assert make_config(patience=1, eval_every=1).watched_from == 4
