"""Recorded steps, and several runs in the same launches. Not collected by itself, see `cuda_backend.py`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import bits, make_config, timeless

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.cuda import detect, tiling
from svd_numpy.tabular.networks import estimate_noise
from svd_numpy.train import console
from svd_numpy.train.loop import Run, fit_together, side_by_side
from svd_numpy.train.trainer import Record, Trainer

if reason := detect.why_not():
    pytest.skip(reason, allow_module_level=True)
from svd_numpy.kernels.cuda.backend import CudaBackend
from svd_numpy.kernels.cuda.side_by_side import SideBySide
from svd_numpy.train.cuda_runner import CudaRunner

sys.setswitchinterval(1e-4)  # seconds: threads of the simulator wait for each other all the time
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
SEEDS = (3, 2**33 + 1, 0)


def dense_data() -> Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 6)).astype(np.float32), np.array([0, 1, 1, 0, 1])
    return Dataset("own", x, y, x[:2], y[:2], None, 2, "made here")


def dense_run(seed: int, run_dir: Path | None = None, resume: bool = False) -> Run:
    layers = svd.VariationalDense(6, 3, log_sigma2=-3.0), svd.ReLU(), svd.VariationalDense(3, 2, log_sigma2=-3.0)
    model = svd.Sequential(*layers, backend="cuda", seed=seed)
    # Each epoch: an ordinary step or a recorded one, a recorded one, one that is short of an example.
    # Each run has a KL weight of its own.
    settings = {"seed": seed, "kl_schedule": ((0.0, 1.0),), "kl_weight": 0.3 + seed % 7}
    config = make_config(epochs=1, finetune_epochs=1, batch_size=2, eval_every=1, train_mask=True, **settings)
    return Run(model, dense_data(), config, (), run_dir and run_dir / str(seed), resume)


def image_run(seed: int) -> Run:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (5, 18), dtype=np.uint8), np.arange(5) % 2
    y[:4] = np.random.default_rng(seed).permutation(y[:4])  # labels may be each run's own
    data = Dataset("own", x, y, x[:3], np.array([1, 0, 1]), (2, 3, 3), 2, "made here")
    layers = (
        svd.VariationalConv2d(2, 2, 2, bias=False), svd.BatchNorm(2), svd.ReLU(), svd.MaxPool2d(2), svd.Flatten(),
        svd.Dropout(0.4), svd.VariationalDense(2, 2),
    )  # fmt: skip
    model = svd.Sequential(*layers, backend="cuda", seed=seed, input_shape=(2, 3, 3))
    config = make_config(epochs=1, finetune_epochs=0, batch_size=2, seed=seed, shift=1, mirror=True)
    return Run(model, data, config, (), None, False)


def regression_run(seed: int) -> Run:
    """Of a straight line, whose noise is estimated after every epoch: another one in each run."""
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    y = (x @ [[2.0], [-1.0]] + 0.3).astype(np.float32)
    data = Dataset("own", x, y, x[:2], y[:2], None, 0, "made here")
    layer = svd.VariationalDense(2, 1, log_sigma2=-3.0)
    model = svd.Sequential(layer, backend="cuda", seed=seed, likelihood="gaussian", threshold=1.0)
    config = make_config(epochs=3, finetune_epochs=1, finetune_threshold=1.0, batch_size=2, eval_every=1, seed=seed)
    return Run(model, data, config, (estimate_noise,), None, False)


def outcome(run: Run, records: list[dict[str, Any]]) -> Any:
    arena = run.trainer.model.arena
    flat = [array.tobytes() for array in (arena.m, arena.v, arena.mask)]
    return bits(run.trainer.model), *flat, run.trainer.model.likelihood, timeless(records)


class StopsSoon(console.StopSignal):
    """As if somebody pressed Ctrl-C in the second step."""

    looks = 0

    @property
    def requested(self) -> bool:
        self.looks += 1
        return self.looks > 1

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


# --- Recorded steps ---


def test_a_run_that_stops_early_ends_with_its_best_weights() -> None:
    weights: dict[int, Any] = {}

    def remember(trainer: Trainer, record: Record) -> None:
        weights[record["epoch"]] = bits(trainer.model)

    model, data = dense_run(3).trainer.model, dense_data()
    data = replace(data, x_valid=data.x_test, y_valid=data.y_test)
    config = svd.TrainConfig(epochs=12, batch_size=2, lr=0.3, eval_every=1, patience=2)
    history = svd.fit(model, data, config, [remember], progress=False)
    best = min(history, key=lambda record: record["valid_nll"])["epoch"]
    assert len(history) == best + 2 < 12 and bits(model) == weights[best] != weights[len(history)]
    runs = [Run(dense_run(seed).trainer.model, data, config, (), None, False) for seed in SEEDS]
    assert [len(group) for group in side_by_side(runs)] == [1, 1, 1]  # each may stop at another epoch


def test_sparse_rows_are_refused_with_the_remedy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    data = replace(dense_data(), x_train=sparse.csr_array(dense_data().x_train))
    with pytest.raises(svd.SvdValueError, match=r"x_train: got a sparse matrix.*give an array: its .toarray"):
        svd.fit(dense_run(3).trainer.model, data, progress=False)


def test_weights_go_with_their_rows() -> None:
    """In ordinary and recorded steps: the same as on the CPU, up to rounding."""
    weights = np.array([1, 0, 4, 2, 0.5])
    runs = [dense_run(3) for _ in range(2)]
    data = replace(dense_data(), weights=weights)
    run = Run(runs[0].trainer.model, data, runs[0].trainer.config, (), None, False)
    fit_together([run], progress=False)
    oracle = dense_run(3).trainer.model.copy("numpy")
    svd.fit(oracle, data, run.trainer.config, progress=False)
    fit_together([runs[1]], progress=False)
    for name, array in run.trainer.model.parameters.items():
        np.testing.assert_allclose(array, oracle.parameters[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert bits(run.trainer.model) != bits(runs[1].trainer.model)


def line_with_callback(run_dir: Path | None = None) -> Run:
    """A run after each of whose epochs its user changes all that may be changed between epochs."""
    run = regression_run(0)
    layers = svd.VariationalDense(2, 2, log_sigma2=-3.0), svd.Dropout(0.2), svd.VariationalDense(2, 1)
    model = svd.Sequential(*layers, backend="cuda", likelihood="gaussian")
    config = make_config(epochs=3, finetune_epochs=1, batch_size=2, train_mask=True)

    def change(trainer: Trainer, record: Record) -> None:
        estimate_noise(trainer, record)
        model = trainer.model
        model.threshold -= 4.0
        model.parameters["dense1.theta"][0, 0] *= -1
        if record["epoch"] == 2:
            model.layers[1].p = 0.6  # type: ignore[attr-defined]

    return Run(model, run.trainer.data, config, (change,), None, False)


def test_recorded_steps_are_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that change from step to step, or from epoch to epoch, change in recorded steps, too."""
    played: list[int] = []
    play = SideBySide.play
    monkeypatch.setattr(SideBySide, "play", lambda self, *args: played.append(args[-1]) or play(self, *args))
    run = line_with_callback()
    recorded = outcome(run, fit_together([run], False)[0])
    assert played == [1, 2, 1, 1]
    monkeypatch.setattr(CudaRunner, "_record", lambda self, step: None)
    run = line_with_callback()
    assert outcome(run, fit_together([run], False)[0]) == recorded
    assert sum(played) == 5
    assert len({record["train_error"] for record in recorded[-1]}) == 4


def test_what_cannot_be_recorded_is_said_and_done_as_before() -> None:
    backend, x = SideBySide([0]), np.full(3, -1, np.float32)
    for work, words in (
        (lambda: backend.relu_forward(x), "shape .3,. is new"),
        (lambda: backend.to_host(x), "copied to the host"),
    ):
        with pytest.warns(UserWarning, match=words):
            assert backend.record(work) is None
    backend.relu_forward(x)
    backend.to_host(x)
    np.testing.assert_array_equal(x, 0)


class _Counting(svd.ReLU):
    """Adds to the KL itself, though nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def add_kl_gradients(self, backend: Any, kl_scale: float) -> None:
        self.seen.append(kl_scale)


@pytest.mark.parametrize("family", ["normal-jeffreys", "half-cauchy", "truncated-log-normal"])
def test_gates_train_as_on_the_host(family: str) -> None:
    """Their numbers are computed on the host at every step, between operations on the device."""
    found = []
    for backend in ("cuda", "numpy"):
        layers = svd.Gate(6, family), svd.VariationalDense(6, 3, log_sigma2=-3), svd.ReLU(), svd.Gate(3, family)
        last = svd.VariationalDense(3, 2, log_sigma2=-3)
        model = svd.Sequential(*layers, last, prior="normal", backend=backend, input_shape=(6,))
        config = make_config(epochs=2, finetune_epochs=1, batch_size=2, eval_every=1, kl_schedule=((0.0, 1.0),))
        records = svd.fit(model, dense_data(), config, progress=False)
        found.append((model.parameters, records, model.predict(dense_data().x_test)))
    for name, array in found[1][0].items():
        np.testing.assert_allclose(found[0][0][name], array, rtol=2e-3, atol=2e-4, err_msg=name)
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        assert mine["kl"] == pytest.approx(theirs["kl"], rel=1e-3)
        assert mine["test_nll"] == pytest.approx(theirs["test_nll"], rel=1e-3)
    np.testing.assert_allclose(found[0][2], found[1][2], rtol=1e-3, atol=1e-4)


def test_a_layer_that_adds_to_the_kl_does_so_at_every_step() -> None:
    data = regression_run(0).trainer.data
    runs, layers = [], [_Counting(), _Counting()]
    for layer in layers:
        model = svd.Sequential(svd.Dense(2, 1), layer, backend="cuda", likelihood="gaussian")
        config = make_config(epochs=1, finetune_epochs=0, batch_size=1, kl_schedule=((0.0, 0.0), (1.0, 1.0)))
        runs.append(Run(model, data, config, (), None, False))
    assert side_by_side(runs) == [[runs[0]], [runs[1]]]
    fit_together(runs[:1], False)
    np.testing.assert_allclose(layers[0].seen, np.arange(5) / 25)


# --- Side by side ---


@pytest.mark.parametrize("make", [dense_run, image_run, regression_run])
def test_side_by_side_they_have_the_bits_of_each_alone(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "SHORTEST", 3)  # sums in slices, too
    alone = {}
    for seed in SEEDS:
        run = make(seed)
        assert side_by_side([run]) == [[run]]
        alone[seed] = outcome(run, fit_together([run], False)[0])
    folders: dict[str, Any] = {}
    if make is dense_run:  # stopped, and gone on with
        folders = {"run_dir": tmp_path}
        (group,) = side_by_side([make(seed, **folders) for seed in SEEDS])
        with monkeypatch.context() as patch, pytest.raises(svd.TrainingInterrupted):
            patch.setattr(console, "StopSignal", StopsSoon)
            fit_together(group, False)
        assert [run.trainer.progress.step for run in group] == [2, 2, 2]
        for run in group:
            run.release()
        folders["resume"] = True
    (group,) = side_by_side([make(seed, **folders) for seed in SEEDS])
    assert len(group) == len(SEEDS)
    for run, records in zip(group, fit_together(group, False), strict=True):
        assert outcome(run, records) == alone[run.trainer.model.seed]
    assert len({result[1] for result in alone.values()}) == len(SEEDS)
    if make is regression_run:
        assert len({result[4] for result in alone.values()}) == len(SEEDS), "noise"
        assert len({result[3] for result in alone.values()}) > 1, "masks"


def test_only_runs_at_the_same_step_go_together() -> None:
    runs = [dense_run(seed) for seed in (0, 1, 2, 3)]
    for run, step in zip(runs, (0, 6, 0, 6), strict=True):
        run.trainer.progress.step = step  # six steps are all: these two are only read back
    assert side_by_side(runs) == [[runs[0], runs[2]], [runs[1]], [runs[3]]]


def test_each_run_has_its_row() -> None:
    backend = SideBySide((5, 6, 7))
    own, data = [np.full(4, float(run), np.float32) for run in range(3)], np.arange(3.0, dtype=np.float32)
    backend.stack(own)
    masks = [np.array([1, run == 1, 1, 1], np.uint8) for run in range(3)]
    backend.stack(masks)
    rows, zero = np.zeros(3, np.float32), np.zeros(3, np.float32)
    backend.gather_rows(data, np.zeros(1, np.int64), 1.0, zero, rows[None])
    with pytest.raises(ValueError, match="common to all runs before"):
        backend.relu_forward(data)  # of which there is one copy
    backend.multiply(own[0], own[0], own[0])
    backend.to_host(*own, rows)
    assert [array.tolist() for array in own] == [[0.0] * 4, [1.0] * 4, [4.0] * 4]
    np.testing.assert_array_equal(rows, data)
    own[1][:] = -3
    backend.to_device(own[1])
    backend.relu_forward(own[0])
    backend.to_host(*own)
    assert [array.tolist() for array in own] == [[0.0] * 4, [0.0] * 4, [4.0] * 4]
    backend.apply_mask(own[0], masks[0], own[0])
    backend.to_host(*own)
    assert [array.tolist() for array in own] == [[0.0] * 4, [0.0] * 4, [4.0, 0.0, 4.0, 4.0]]
    assert backend.noise(NoiseKey(5, 0, 0), 1, 3).tobytes() == CudaBackend().noise(NoiseKey(5, 0, 0), 1, 3).tobytes()


# --- Living weights ---


def removing_run(backend: str, seed: int = 0, run_dir: Path | None = None, resume: bool = False) -> Run:
    layers = svd.VariationalDense(6, 4, log_sigma2=-3.0), svd.ReLU(), svd.VariationalDense(4, 2, log_sigma2=-3.0)
    model = svd.Sequential(*layers, backend=backend, seed=seed)
    model.parameters["dense1.theta"][:, 1] = 1e-3  # this unit is a constant from the first removal on
    config = make_config(epochs=2, finetune_epochs=1, batch_size=2, kl_schedule=((0.0, 1.0),), remove_above=2.0)
    return Run(model, dense_data(), config, (), run_dir, resume)


def test_a_run_that_removes_weights_works_on_smaller_arrays_and_goes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    init = CudaRunner.__init__
    monkeypatch.setattr(
        CudaRunner, "__init__", lambda self, runs: sizes.append(runs[0].model.arena.params.size) or init(self, runs)
    )
    run, expected = removing_run("cuda"), removing_run("numpy")
    records, wanted = (fit_together([each], False)[0] for each in (run, expected))
    assert sizes[0] > sizes[1]
    for record, other in zip(records, wanted, strict=True):
        assert record["living"] == other["living"] and record["nll"] == pytest.approx(other["nll"], rel=1e-3)
    assert records[0]["living"] < 32 and set(records[-1]["forms"].values()) == {"matrix"}
    with monkeypatch.context() as patch, pytest.raises(svd.TrainingInterrupted):
        patch.setattr(console, "StopSignal", StopsSoon)
        stopped = removing_run("cuda", run_dir=tmp_path)
        fit_together([stopped], False)
    stopped.release()
    resumed = removing_run("cuda", run_dir=tmp_path, resume=True)
    assert outcome(resumed, fit_together([resumed], False)[0]) == outcome(run, records)
    two = [removing_run("cuda", seed) for seed in (0, 1)]
    assert side_by_side(two) == [[two[0]], [two[1]]]
