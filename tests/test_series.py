"""Several seeds and KL weights, on backends that do one run after the other; side by side: `cuda_runs.py`."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import bits, timeless

import svd_numpy as svd
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import get_recipe, stretch
from svd_numpy.train.loop import fit
from svd_numpy.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("blank_pictures")


def train(**changes: Any) -> Any:
    settings = {"dataset": "digits", "backend": "numpy", "epochs": 2, "batch_size": 480, "progress": False}
    return svd.train_mnist(**(settings | changes))


def outcome(result: svd.TrainResult) -> Any:
    return bits(result.model), timeless(result.history)


def test_several_seeds_are_the_separate_runs(tmp_path: Path) -> None:
    results = train(seeds=(4, 0), run_dir=tmp_path / "runs")
    assert [one.model.seed for one in results] == [4, 0]
    for one in results:
        assert outcome(one) == outcome(train(seed=one.model.seed))
        folder = tmp_path / "runs" / f"seed-{one.model.seed}"
        assert (folder / "result.txt").read_text() == f"{one}\n"
    again = train(seeds=(0, 4, 1), run_dir=tmp_path / "runs", resume=True)  # one of them is new
    assert [outcome(one) for one in again[:2]] == [outcome(one) for one in (results[1], results[0])]
    with pytest.raises(ValueError, match=r"runs.seed-4 holds a run already; choose another folder, or resume=True"):
        train(seeds=(7, 4), run_dir=tmp_path / "runs")
    assert not (tmp_path / "runs" / "seed-7").exists()


def test_an_interrupted_series_goes_on(tmp_path: Path) -> None:
    def ctrl_c(trainer: Trainer, record: dict[str, Any]) -> None:
        if trainer.model.seed == 1 and record["epoch"] == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(svd.TrainingInterrupted, match=r"run_dir='.*/run', resume=True"):
        train(seeds=range(3), run_dir=tmp_path / "run", callbacks=[ctrl_c])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["seed-0", "seed-1"]
    assert (tmp_path / "run" / "seed-0" / "result.json").exists()
    assert not (tmp_path / "run" / "seed-1" / "result.json").exists()
    results = train(seeds=range(3), run_dir=tmp_path / "run", resume=True)
    assert [outcome(one) for one in results] == [outcome(train(seed=seed)) for seed in range(3)]


def test_the_table_has_a_row_for_each_seed_and_their_mean() -> None:
    results = train(seeds=range(2), epochs=1, random_labels=True)
    assert not np.array_equal(results[0].data.y_train, results[1].data.y_train)
    assert results[0].data.x_train is results[1].data.x_train
    lines = str(results).splitlines()
    assert "2 seeds; mean +- standard deviation" in lines[0]
    assert [line.split("  ")[0] for line in lines[2:5]] == ["seed 0", "seed 1", "mean"]
    errors = [100 * one.test_error for one in results]
    assert f"{np.mean(errors):.2f} +- {np.std(errors, ddof=1):.2f}" in lines[4]
    assert lines[5].startswith("NOTE: ") and "+-" not in lines[2] and str(results).isascii()
    assert str(results[:0]) == "no run" and isinstance(results[:1], svd.TrainResults)


def test_a_kl_weight_is_a_factor_on_the_recipes(tmp_path: Path) -> None:
    plain, double = train(), train(kl_weight=2)
    (again, own), config = train(kl_weight=(1, 2.0), run_dir=tmp_path), get_recipe("lenet-300-100", "default").config
    assert [outcome(again), outcome(own)] == [outcome(plain), outcome(double)]
    assert [record["kl_weight"] for record in double.history] == [2 * record["kl_weight"] for record in plain.history]
    twice = tuple((epoch, 2 * value) for epoch, value in stretch(config, 2).kl_schedule)
    model = build(plain.data, plain.recipe, 0, "numpy")
    fit(model, plain.data, replace(stretch(config, 2), batch_size=480, kl_schedule=twice), progress=False)
    assert bits(model) == bits(double.model) != bits(plain.model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kl-1", "kl-2", "results.png", "results.txt"]
    assert (own.kl_weight, own.to_dict()["kl_weight"]) == (2.0, 2.0)
    assert "on digits, KL weight 2, recipe" in str(own) and "KL weight" not in str(plain)


def test_every_weight_with_every_seed(tmp_path: Path) -> None:
    results = train(epochs=1, seeds=(1, 0), kl_weight=(3, 0), run_dir=tmp_path)
    assert [(one.kl_weight, one.model.seed) for one in results] == [(3, 1), (3, 0), (0, 1), (0, 0)]
    assert (tmp_path / "kl-3-seed-1" / "result.json").exists()
    lines = str(results).splitlines()
    assert lines[0].endswith("2 KL weights, 2 seeds; mean +- standard deviation")
    assert [line.split("  ")[0] for line in lines[2:4]] == ["KL weight 3", "KL weight 0"]
    assert f"{np.mean([100 * one.test_error for one in results[2:]]):.2f} +-" in lines[3]
    assert (tmp_path / "results.txt").read_text() == f"{results}\n"
    axes = results.plot().axes[0]
    np.testing.assert_allclose(
        axes.lines[-1].get_xdata(),
        [np.mean([100 * one.test_error for one in group]) for group in (results[:2], results[2:])],
    )
