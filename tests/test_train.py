"""The training loop: schedules, the course of a run, its record."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_runs import (
    N_CLASSES,
    N_IN,
    N_TRAIN,
    STEPS_PER_EPOCH,
    bits,
    make_config,
    make_data,
    make_net,
    timeless,
)

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.files.run_log import read_log
from svd_numpy.kernels.priors import log_alpha
from svd_numpy.train.console import is_watched
from svd_numpy.train.schedules import at_epoch, check_knots
from svd_numpy.train.trainer import Trainer

# ---- schedules


def test_a_schedule_is_straight_between_knots_and_constant_outside() -> None:
    knots = check_knots("s", [(5, 0), (20, 1.0), (30, 0.5)])
    for epoch, value in ((0, 0), (5, 0), (12.5, 0.5), (20, 1), (25, 0.75), (30, 0.5), (1e9, 0.5)):
        assert at_epoch(knots, epoch) == pytest.approx(value)
    assert at_epoch(check_knots("s", [(3, 0.25)]), 0) == 0.25


@pytest.mark.parametrize(
    ("knots", "words"),
    [
        ([], "got no knot"),
        (5, "expected pairs"),
        ([1, 2], "expected pairs"),
        ([(1, 2, 3)], "expected pairs"),
        ([(0, 1), (0, 2)], "expected them to increase"),
        ([(2, 1), (1, 2)], "expected them to increase"),
        ([(-1, 1)], "s epoch: got -1"),
        ([(0, -1)], "s value: got -1"),
        ([(0, float("nan"))], "s value: got nan"),
        ([(float("inf"), 1)], "s epoch: got inf"),
    ],
)
def test_senseless_knots_are_refused(knots: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_knots("s", knots)


def test_the_schedule_of_a_whole_run() -> None:
    config = make_config()
    trainer = Trainer(make_net(), make_data(), config)
    assert trainer.steps_per_epoch == STEPS_PER_EPOCH
    seen = []
    while not trainer.done:
        seen.append(trainer.schedule(trainer.progress.step))
        trainer.progress.step += 1
    lr, kl_weight, finetune = (np.array(column) for column in zip(*seen, strict=True))
    epoch = np.arange(30) / STEPS_PER_EPOCH
    np.testing.assert_array_equal(finetune, epoch >= 4)
    np.testing.assert_allclose(lr[:20], 0.01 * np.interp(epoch[:20], [2, 4], [1, 0.2]))
    np.testing.assert_allclose(lr[20:], 0.005 * np.arange(10, 0, -1) / 10)
    np.testing.assert_allclose(kl_weight[:20], np.interp(epoch[:20], [0.5, 2], [0, 1]))
    assert not kl_weight[20:].any()


# ---- what a run does


@pytest.fixture(scope="module")
def long_run() -> tuple[svd.Sequential, Dataset, list[dict[str, Any]]]:
    model, data = make_net(), make_data()
    config = make_config(
        epochs=250,
        lr=0.02,
        lr_schedule=((150, 1), (250, 0)),
        kl_schedule=((20, 0), (80, 1)),
        finetune_epochs=10,
        finetune_threshold=3.0,
        train_mask=True,
    )
    return model, data, svd.fit(model, data, config, progress=False)


def test_a_run_learns_and_prunes_the_noise(
    long_run: tuple[svd.Sequential, Dataset, list[dict[str, Any]]],
) -> None:
    model, data, history = long_run
    assert history[-1]["test_error"] <= 0.05
    assert history[-1]["sparsity"]["dense1"] > 0.6 and history[-1]["compression"] > 2.5
    assert history[-1]["kl"] < history[20]["kl"]
    kept = log_alpha(model.parameters["dense1.theta"], model.parameters["dense1.log_sigma2"]) <= 3
    assert kept[:N_CLASSES].sum() > 3 * kept[N_CLASSES:].sum()  # what survives looks at the informative columns
    assert svd.evaluate(model, data.x_test, data.y_test)["error"] == history[-1]["test_error"]
    from svd_numpy.network.sparsity import sparsify

    np.testing.assert_array_equal(sparsify(model).predict(data.x_test), model.predict(data.x_test))


def test_fine_tuning_moves_the_survivors_and_nothing_else() -> None:
    model, data = make_net(), make_data()
    before: dict[str, np.ndarray] = {}

    def watch(trainer: Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == trainer.config.epochs:
            before.update({name: array.copy() for name, array in model.parameters.items()})

    svd.fit(model, data, make_config(epochs=30, kl_schedule=((0, 1),)), [watch], progress=False)
    moved = 0
    for name in ("dense1", "dense2"):
        dead = log_alpha(before[f"{name}.theta"], before[f"{name}.log_sigma2"]) > 0.0
        theta = model.parameters[f"{name}.theta"]
        assert 0 < dead.sum() < dead.size
        assert not theta[dead].any() and theta[~dead].all()
        assert (model.parameters[f"{name}.log_sigma2"] == -20).all()
        moved += int(np.count_nonzero(theta[~dead] != before[f"{name}.theta"][~dead]))
    assert moved > 20


def test_fine_tuning_with_noise_keeps_the_posterior_of_the_survivors() -> None:
    log_alphas = {}
    for weight in (0.0, 30.0):
        model, data = make_net(), make_data()
        config = make_config(epochs=30, kl_schedule=((0, 1),), finetune_epochs=10, finetune_kl=weight)
        records = svd.fit(model, data, config, progress=False)
        assert [record["kl_weight"] for record in records[30:]] == [weight] * 10
        alive = {name: mask.astype(bool) for name, mask in model.arena.mask_views.items() if name.endswith("theta")}
        assert 0 < sum(mask.sum() for mask in alive.values()) < 120
        for layer in model.variational_layers:
            own = alive[f"{layer.name}.theta"]
            assert not layer.theta[~own].any() and (layer.log_sigma2[~own] == -20).all()
            assert (layer.log_sigma2[own] > -20).all()
        samples = model.sample(data.x_test[:5], 3)
        assert np.ptp(samples, axis=0).min() > 0
        log_alphas[weight] = np.concatenate(
            [log_alpha(of.theta, of.log_sigma2)[alive[f"{of.name}.theta"]] for of in model.variational_layers]
        )
    assert np.median(log_alphas[30.0]) > np.median(log_alphas[0.0]) + 1


def test_the_schedule_of_fine_tuning_with_noise_is_that_of_fine_tuning_and_its_kl() -> None:
    trainer = Trainer(make_net(), make_data(), make_config(finetune_kl=0.3, kl_weight=2.0))
    assert trainer.schedule(20) == (0.005, 0.3, True)
    assert trainer.settings(20).kl_scale == pytest.approx(0.6 / 110)
    assert [trainer.pass_of(trainer.model.backend, step, trainer.settings(step), 0).mode for step in (19, 20)] == [
        "sample", "sample",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"finetune_kl: got 0\.3 with finetune_epochs=0"):
        make_config(finetune_epochs=0, finetune_kl=0.3)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_train_mask_takes_dead_weights_out_of_the_mean(backend: str) -> None:
    """With the mask a weight above the threshold gets no gradient through the mean; without it, it does."""
    for masked in (True, False):
        model = make_net(backend)
        theta, log_sigma2 = model.parameters["dense1.theta"], model.parameters["dense1.log_sigma2"]
        theta[:, 0], log_sigma2[:, 0] = 0.01, -2.0  # log_alpha = 7.2: dead
        start = theta.copy()
        config = svd.TrainConfig(epochs=1, batch_size=N_TRAIN, kl_schedule=((0, 0),), train_mask=masked)
        trainer = Trainer(model, make_data(), config)
        trainer.step()
        assert (theta[:, 0] == start[:, 0]).all() == masked
        assert (theta[:, 1:] != start[:, 1:]).mean() > 0.9  # the others learn in either case


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    def train(seed: int, order: int) -> dict[str, bytes]:
        model = make_net(seed=seed)
        svd.fit(model, make_data(), make_config(seed=order), progress=False)
        return bits(model)

    first = train(0, 0)
    assert train(0, 0) == first
    assert train(1, 0) != first and train(0, 1) != first


def test_measuring_does_not_alter_training() -> None:
    models = [make_net() for _ in range(3)]
    histories = [
        svd.fit(model, make_data(), make_config(eval_every=every), progress=False)
        for model, every in zip(models, (0, 1, 3), strict=True)
    ]
    assert bits(models[0]) == bits(models[1]) == bits(models[2])
    measured = [[r["epoch"] for r in history if r["test_error"] is not None] for history in histories]
    assert measured == [[6], [1, 2, 3, 4, 5, 6], [3, 6]]
    assert histories[0][-1]["test_error"] == histories[1][-1]["test_error"]


def test_the_order_of_the_examples_depends_on_seed_and_epoch_alone() -> None:
    def orders(trainer: Trainer, start: int = 0) -> list[list[int]]:
        epochs = []
        for epoch in range(start, 3):
            batches = []
            for at in range(STEPS_PER_EPOCH):
                step = epoch * STEPS_PER_EPOCH + at
                assert trainer.batches.begin(step) == (at == 0)
                batches.append(trainer.batches.order[trainer.batches.rows(step)].copy())
            assert [len(batch) for batch in batches] == [25, 25, 25, 25, 10]
            epochs.append(np.concatenate(batches).tolist())
            assert sorted(epochs[-1]) == list(range(N_TRAIN))
        return epochs

    first = orders(Trainer(make_net(), make_data(), make_config()))
    assert first[0] != first[1] != first[2]
    other = Trainer(make_net(seed=9), make_data(seed=3), make_config(lr=0.1, epochs=9))
    assert orders(other, start=1) == first[1:]
    assert orders(Trainer(make_net(), make_data(), make_config(seed=1))) != first


def test_numpy_and_numba_train_alike() -> None:
    histories, models = [], []
    for backend in ("numpy", "numba"):
        model = make_net(backend)
        config = make_config(epochs=20, batch_size=N_TRAIN, lr=1e-3, train_mask=True, finetune_epochs=0,
                             lr_schedule=((0, 1),), kl_schedule=((0, 1),))  # fmt: skip
        histories.append(svd.fit(model, make_data(), config, progress=False))
        models.append(model)
    for key, tolerance in (("nll", 1e-4), ("kl", 1e-4), ("train_error", 0.02)):
        reference, fast = (np.array([record[key] for record in history]) for history in histories)
        np.testing.assert_allclose(fast, reference, rtol=tolerance, atol=tolerance)
    for name, array in models[0].parameters.items():
        assert np.abs(array - models[1].parameters[name]).mean() < 1e-5, name  # 20 steps of 1e-3 each


def test_the_batch_may_be_larger_than_the_data() -> None:
    model = make_net()
    history = svd.fit(model, make_data(), svd.TrainConfig(epochs=3, batch_size=1000), progress=False)
    assert len(history) == 3 and np.isfinite(history[-1]["nll"])


def test_no_epoch_is_no_training() -> None:
    model = make_net()
    before = bits(model)
    assert svd.fit(model, make_data(), svd.TrainConfig(epochs=0), progress=False) == []
    assert bits(model) == before


def test_a_plain_network_trains_and_starts_a_sparse_one(capsys: pytest.CaptureFixture[str]) -> None:
    plain = svd.Sequential(svd.Dense(N_IN, 8), svd.ReLU(), svd.Dense(8, N_CLASSES), backend="numpy")
    history = svd.fit(plain, make_data(), svd.TrainConfig(epochs=40, batch_size=25, lr=0.01), progress=True)
    assert history[-1]["test_error"] < 0.1 and history[-1]["kl"] == 0
    assert "compression 1.0x" in capsys.readouterr().out
    sparse = make_net().init_from(plain)
    np.testing.assert_array_equal(sparse.parameters["dense1.theta"], plain.parameters["dense1.theta"])
    np.testing.assert_array_equal(sparse.parameters["dense2.bias"], plain.parameters["dense2.bias"])
    assert (sparse.parameters["dense1.log_sigma2"] == -10).all()
    data = make_data()
    error = svd.evaluate(sparse, data.x_test, data.y_test)["error"]
    assert error == history[-1]["test_error"]


def test_regression_lowers_the_squared_error() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)).astype(np.float32)
    y = x[:, :1] * 2 + 1
    data = Dataset("line", x[:60], y[:60], x[60:], y[60:], None, 0, "made here")
    model = svd.Sequential(svd.VariationalDense(5, 1), backend="numpy", likelihood=svd.Gaussian(0.1))
    history = svd.fit(model, data, svd.TrainConfig(epochs=150, batch_size=20, lr=0.03), progress=False)
    assert history[-1]["test_error"] < 0.02 < history[0]["train_error"]


# ---- its record

RECORD: dict[str, Any] = {
    "schema": int,
    "epoch": int,
    "stage": str,
    "seconds": float,
    "nll": float,
    "kl": float,
    "kl_weight": float,
    "lr": float,
    "train_error": float,
    "test_error": (float, type(None)),
    "test_nll": (float, type(None)),
    "sparsity": dict,
    "compression": float,
    "living": int,
    "forms": dict,
    "ms_per_step": float,
    "non_finite": float,
}


def test_records_have_one_schema_and_are_what_the_file_holds(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    config, callbacks = make_config(eval_every=2), [lambda _, record: seen.append(record)]
    history = svd.fit(make_net(), make_data(), config, callbacks, tmp_path / "run", progress=False)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert [record["stage"] for record in history] == ["variational"] * 4 + ["finetune"] * 2
    assert [record["test_error"] is not None for record in history] == [False, True] * 3
    for record in history:
        assert set(record) == set(RECORD)
        for key, kind in RECORD.items():
            assert isinstance(record[key], kind), key
        assert set(record["sparsity"]) == {"dense1", "dense2"} and record["non_finite"] == 0
        assert 0 <= record["train_error"] <= 1 and record["compression"] >= 1
    assert [record["lr"] for record in history[4:]] == pytest.approx([0.003, 0.0005])  # of the epoch's last step
    assert history == read_log(tmp_path / "run" / "metrics.jsonl")
    assert [{"schema": 1, **record} for record in seen] == history
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "metrics.jsonl"]


def test_settings_in_numpy_types_are_stored_as_plain_numbers(tmp_path: Path) -> None:
    config = svd.TrainConfig(epochs=np.int64(2), lr=np.float32(0.5), seed=np.uint8(3), lr_schedule=np.ones((1, 2)))
    assert [type(getattr(config, name)) for name in ("epochs", "lr", "seed")] == [int, float, int]
    svd.fit(make_net(), make_data(), config, run_dir=tmp_path, progress=False)
    assert json.loads(next(tmp_path.glob("checkpoints/*/manifest.json")).read_text())["state"]["config"]["seed"] == 3


def test_lines_for_a_log_and_silence_when_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = svd.fit(make_net(), make_data(), make_config(), progress=False)
    assert capsys.readouterr() == ("", "")
    loud = svd.fit(make_net(), make_data(), make_config(), progress=True)
    out = capsys.readouterr().out
    assert "epoch    6/6" in out and "test error" in out and "compression" in out
    assert timeless(quiet) == timeless(loud)


@pytest.mark.parametrize(("module", "shell", "bar"), [
    ("ipykernel", None, False),  # imported, as by a program that starts notebooks
    ("IPython", SimpleNamespace(), False),  # IPython in a terminal whose output goes elsewhere
    ("IPython", SimpleNamespace(kernel="of a notebook"), True),
])  # fmt: skip
def test_only_in_a_notebook_is_a_bar_shown_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, module: str, shell: object, bar: bool
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(get_ipython=lambda: shell))
    assert is_watched() == bar


def test_a_diverging_run_stops_with_its_reason_and_finite_weights() -> None:
    model = make_net()
    data = make_data()
    huge = Dataset("huge", data.x_train * 1e14, data.y_train, data.x_test, data.y_test, None, 3, "made here")
    model.parameters["dense1.theta"][...] = 1e24
    before = bits(model)
    with pytest.raises(ValueError, match=r"step 0: the loss is .*lower lr, or scale"):
        svd.fit(model, huge, make_config(), progress=False)
    assert bits(model) == before
