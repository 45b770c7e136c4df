"""Methods that prune ordinary weights, through `train_mnist`, `train_cifar` and the command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import bits, run_log, timeless

import svd_numpy as svd
from svd_numpy.cli import main as cli
from svd_numpy.cli.train import TrainCifar
from svd_numpy.experiments import baselines
from svd_numpy.experiments.methods import METHODS
from svd_numpy.experiments.recipes import RECIPES
from svd_numpy.experiments.run_files import run_figures
from svd_numpy.train import loop
from svd_numpy.train.schedules import at_epoch
from svd_numpy.train.trainer import Trainer

PLAIN = ("dense", "dropout", "gaussian-dropout")
PRUNING = ("magnitude", "magnitude-rewind", "gradual-magnitude", "ivon", "surgery", "weight-sharing")


def train(**changes: Any) -> svd.TrainResult:
    settings = {"dataset": "digits", "recipe": "small", "backend": "numpy", "epochs": 10, "batch_size": 240}
    return svd.train_mnist(**(settings | {"progress": False} | changes))


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("method", [*PLAIN, *PRUNING])
def test_a_method_leaves_a_run_like_any_other(tmp_path: Path, method: str) -> None:
    result = train(method=method, run_dir=tmp_path)
    content = json.loads((tmp_path / "result.json").read_text())
    assert (content["method"], content["kind"]) == (method, METHODS[method].kind)
    text = (tmp_path / "result.txt").read_text()
    assert text.startswith(f"{METHODS[method].title}, lenet-300-100 on digits")
    assert (result.compression > 1) == (method in PRUNING) == ("live units" in text)
    assert list(run_figures(tmp_path, result.history)) == ["training_curves"]
    loaded = svd.Sequential.load(tmp_path / "model.safetensors", backend="numpy")
    np.testing.assert_array_equal(loaded.predict(result.data.x_test), result.model.predict(result.data.x_test))
    assert train(method=method, run_dir=tmp_path, resume=True).to_dict() == result.to_dict()
    if method in PRUNING:
        small = svd.compress(result.model)
        x = result.data.x_test[:20]
        np.testing.assert_allclose(small.predict(x), result.model.predict(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("method", PRUNING)
def test_a_stopped_method_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    whole, original = train(method=method), Trainer.step

    def stopping(self: Trainer) -> None:
        original(self)
        if self.progress.step == 33:  # in the middle of an epoch, after some pruning
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(svd.TrainingInterrupted):
        train(method=method, run_dir=tmp_path)
    monkeypatch.setattr(Trainer, "step", original)
    again = train(method=method, run_dir=tmp_path, resume=True)
    assert bits(again.model) == bits(whole.model)
    assert run_log(tmp_path) == timeless(whole.history)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_methods_are_the_kinds_of_networks(kind: str) -> None:
    assert bits(train(method=kind, epochs=2).model) == bits(train(kind=kind, epochs=2).model)


@pytest.mark.parametrize("plan", RECIPES.values(), ids=str)
@pytest.mark.parametrize("method", PRUNING)
def test_the_recipes_prune_within_the_epochs_of_sparse_vd(method: str, plan: Any) -> None:
    adapted = METHODS[method].adapt(plan)
    epochs = plan.config.epochs if plan.pretrain is None else plan.pretrain.epochs + plan.config.total_epochs
    assert adapted.config.epochs == adapted.config.total_epochs == epochs
    assert adapted.config.pruning is not None and adapted.pretrain is None
    last = max(dict(adapted.config.pruning.to_json()).get("stop", 0), 0.9 * epochs if "magnitude" in method else 0)
    assert last <= epochs
    assert adapted.config.lr_schedule[-1][0] == pytest.approx(epochs)


def test_the_sparsity_can_be_chosen_where_magnitude_decides() -> None:
    for method in ("magnitude", "magnitude-rewind", "gradual-magnitude", "ivon"):
        assert train(method=method, sparsity=0.8).compression == pytest.approx(5, rel=0.01)
    rounds = svd.MagnitudeRounds(rounds=((1, 0.5), (2, 0.75), (3, 0.9)))
    assert rounds.ending_at(0.8) == svd.MagnitudeRounds(rounds=((1, 0.5), (2, 0.75), (3, 0.8)))
    assert rounds.ending_at(0.5) == svd.MagnitudeRounds(rounds=((1, 0.5),))
    assert rounds.ending_at(0.95) == svd.MagnitudeRounds(rounds=((1, 0.5), (2, 0.75), (3, 0.95)))
    with pytest.raises(svd.SvdValueError, match=r"sparsity: got 0\.8, but 'surgery' finds its own"):
        train(method="surgery", sparsity=0.8)
    with pytest.raises(svd.SvdValueError, match=r"sparsity: got 0\.8, but method 'sparse-vd' cannot be told one"):
        train(sparsity=0.8)
    with pytest.raises(svd.SvdValueError, match="sparsity: got 1, expected a share"):
        train(method="magnitude", sparsity=1)


def test_the_learning_rate_is_rewound_after_each_round() -> None:
    config = baselines.magnitude_rewind(RECIPES["lenet-300-100", "default"]).config
    assert isinstance(config.pruning, svd.MagnitudeRounds)
    for epoch, _ in config.pruning.rounds:
        assert at_epoch(config.lr_schedule, epoch) == pytest.approx(0.01)
        assert at_epoch(config.lr_schedule, epoch + 0.01) == 1


def test_the_command_line_names_the_folder_after_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train --dataset digits --method surgery --epochs 3 --batch-size 240 --backend numpy --no-progress"
    assert cli.main(words.split()) == 0
    assert "Dynamic network surgery" in capsys.readouterr().out
    assert (tmp_path / "runs" / "lenet-300-100-surgery-digits-default-seed0" / "result.json").is_file()
    cifar = cli.parse(["train-cifar", "--method", "magnitude"])
    assert isinstance(cifar, TrainCifar)
    assert cifar.default_run_dir().name.startswith("vgg-like-width1-magnitude-cifar10")
