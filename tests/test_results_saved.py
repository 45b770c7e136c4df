"""What a finished run leaves: never a mixture of two results, and pictures never stop it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_tools import disk_full, failing_at
from matplotlib.figure import Figure
from small_runs import bits

import svd_numpy as svd
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run_files import load_log_alphas, save_log_alphas
from svd_numpy.plots.frames import FrameRecorder
from svd_numpy.train.trainer import Trainer

NAMES = ("model.safetensors", "result.txt", "summary.png", "result.json")


def train(**changes: Any) -> TrainResult:
    settings = {"dataset": "digits", "backend": "numpy", "epochs": 2, "batch_size": 240, "progress": False}
    return svd.train_mnist(**(settings | changes))


@pytest.fixture(scope="module")
def results() -> list[TrainResult]:
    return [train(seed=seed, epochs=1) for seed in range(2)]


def kept(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).is_file()}


def draw_title(result: TrainResult) -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.suptitle(str(result.model.seed))
    return figure


def test_an_interrupted_save_over_an_older_result_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: list[TrainResult]
) -> None:
    monkeypatch.setattr(TrainResult, "plot", draw_title)
    whole = []
    for number, result in enumerate(results):
        result.save(tmp_path / str(number))
        whole.append(kept(tmp_path / str(number)))
        assert list(whole[-1]) == list(NAMES)
    old, new = whole
    for k in range(100):
        folder = tmp_path / f"run-{k}"
        results[0].save(folder)
        with failing_at(k, disk_full) as calls, pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *_, **__: None)
            try:
                results[1].save(folder)
            except OSError as error:
                assert str(folder) in str(error)
        found = kept(folder)
        of_old, of_new = (found.items() <= each.items() for each in whole)
        assert of_old or of_new, (k, calls[k])
        if "result.json" in found:  # what says that a run is finished comes last
            assert found == old or {**found, "summary.png": b""} == {**new, "summary.png": b""}
        if k >= len(calls):
            break
    else:
        pytest.fail("save never ended without a fault")
    assert found == new and sorted(os.listdir(folder)) == sorted(NAMES)


def test_a_picture_that_cannot_be_drawn_is_said_and_the_rest_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: list[TrainResult]
) -> None:
    def fail(_: TrainResult) -> Figure:
        raise RuntimeError("no font")

    monkeypatch.setattr(TrainResult, "plot", draw_title)
    results[0].save(tmp_path)
    monkeypatch.setattr(TrainResult, "plot", fail)
    with pytest.warns(UserWarning, match=r"summary\.png.*no font"):
        results[1].save(tmp_path)
    assert set(kept(tmp_path)) == {*NAMES} - {"summary.png"}  # the old picture belonged to the old result


def test_a_full_disk_does_not_swallow_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrainResult, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(run_dir=tmp_path, epochs=1)
    assert "this run" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["frames.npz", "log_alpha.npz"])
@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.usefixtures("blank_pictures")
def test_a_damaged_picture_file_does_not_stop_a_resumed_run(tmp_path: Path, name: str, stop: int) -> None:
    def fail(_: Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == stop:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(run_dir=tmp_path, callbacks=[fail])
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=name):
        result = train(run_dir=tmp_path, resume=True)
    assert bits(result.model) == bits(train().model)


@pytest.mark.usefixtures("blank_pictures")
def test_frames_that_cannot_be_written_do_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FrameRecorder, "save", full)
    with pytest.warns(UserWarning, match=r"frames\.npz.*No space left") as caught:
        train(run_dir=tmp_path)
    assert len(caught) == 1 and len(kept(tmp_path)) == len(NAMES)


@pytest.mark.usefixtures("blank_pictures")
def test_a_finished_run_is_read_back_without_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a folder that cannot be written to."""
    first = train(run_dir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = train(run_dir=tmp_path, resume=True)
    assert again.history == first.history and str(again) == str(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_log_alphas_come_back_whatever_the_layers_are_called(tmp_path: Path) -> None:
    path = tmp_path / "log_alpha.npz"
    wanted = {name: np.full((2, 3), 1.5, np.float16) for name in ("file", "threshold", "layers", "dense1")}
    save_log_alphas(path, wanted, 2.5)
    found, threshold = load_log_alphas(path)
    assert threshold == 2.5 and list(found) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_lost_layer_and_a_value_that_is_no_number_are_said(tmp_path: Path) -> None:
    path = tmp_path / "log_alpha.npz"
    save_log_alphas(path, {"dense1": np.zeros((12, 8)), "dense2": np.zeros((8, 3))}, 3.0)
    content = path.read_bytes()
    at = content.index(b"PK\1\2")
    for bit in range(8 * 46):  # of the first entry in the zip's directory
        damaged = bytearray(content)
        damaged[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found, threshold = load_log_alphas(path)
        except svd.SvdValueError as error:
            assert str(path) in str(error)
        else:
            assert set(found) == {"dense1", "dense2"} and threshold == 3.0
    save_log_alphas(path, {"dense1": np.full((2, 2), np.nan)}, 3.0)
    with pytest.raises(svd.SvdValueError, match=r"log_alpha\.npz"):
        load_log_alphas(path)
