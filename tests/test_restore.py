"""What a checkpoint must hold to be continued: checksums show damage, not sense."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import STEPS_PER_EPOCH, bits, make_config, make_data, make_net, run_log, tree

import svd_numpy as svd
from svd_numpy.files import checkpoint
from svd_numpy.files.checkpoint import MAX_STEP
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.train import loop
from svd_numpy.train.trainer import Trainer


def fit(run_dir: Path, model: svd.Sequential | None = None, **options: Any) -> list[dict[str, Any]]:
    return svd.fit(model or make_net(), make_data(), make_config(), run_dir=run_dir, progress=False, **options)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with checkpoints after epochs 1 and 2."""

    def stop(_: Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == 3:
            raise RuntimeError("stop")

    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path / "run", callbacks=[stop])
    return tmp_path / "run"


Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def put(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda arrays, _: arrays.update({name: make(arrays[name])})


def one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def make(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[1] = value
        return array

    return make


def progress(**changes: Any) -> Change:
    return lambda _, state: state["progress"].update(changes)


CHANGES: list[tuple[Change, str]] = [
    (lambda arrays, _: arrays.pop("m"), "lacks the array 'm'"),
    (lambda arrays, _: arrays.update(more=np.zeros(1)), "unknown array 'more'"),
    (put("params", lambda a: a[:1]), r"'params' has shape \(1,\).*expected"),
    (put("params", lambda a: a[:1].reshape(())), r"'params' has shape \(\)"),
    (put("params", lambda a: a.astype(bool)), "'params' has dtype bool, expected float32"),
    (put("params", lambda a: a.astype("int64")), "'params' has dtype int64"),
    (put("params", lambda a: a.astype("float64")), "'params' has dtype float64"),
    (put("params", one(math.nan)), "'params' is not finite"),
    (put("m", one(math.inf)), "'m' is not finite"),
    (put("v", one(-1.0)), "'v' is negative"),
    (put("mask", one(7)), "'mask' is neither 0 nor 1"),
    (progress(step=-1), "step"),
    (progress(step=2**40), "step"),
    (progress(step=1e300), "step"),
    (progress(step="8"), "step"),
    (progress(step=True), "step"),
    (progress(step=11), "step is 11.*10"),
    (progress(more=1), "progress"),
    (progress(seconds=-1), "seconds"),
    (progress(seconds="1"), "seconds"),
    (progress(nll_sum=None), "nll_sum"),
    (progress(nll_sum=10**400), "nll_sum"),
    (progress(error_sum=-1.0), "error_sum"),
    (progress(examples=5), "examples is 5, expected 0"),
    (progress(examples=-1), "examples"),
    (lambda _, state: state["progress"].pop("examples"), "progress"),
    (lambda _, state: state.update(progress=[]), "progress"),
    (lambda _, state: state.pop("progress"), "progress"),
    (lambda _, state: state.pop("likelihood"), "likelihood"),
    (lambda _, state: state.update(likelihood={"name": "gaussian", "std": 1.0}), "likelihood"),
    (lambda _, state: state.update(config=[]), "config"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_well_signed_checkpoint_without_sense_is_refused(stopped: Path, change: Change, words: str) -> None:
    found = checkpoint.load(stopped / "checkpoints")
    assert found.step == 2 * STEPS_PER_EPOCH
    change(found.arrays, found.state)
    checkpoint.save(stopped / "checkpoints", found.step, found.arrays, found.state)
    before, model = tree(stopped), make_net()
    weights = bits(model)
    with pytest.raises(svd.SvdValueError, match=words) as caught:
        fit(stopped, model, resume=True)
    assert "run" in str(caught.value) and isinstance(caught.value, CheckpointError) == ("config" not in words)
    assert bits(model) == weights and tree(stopped) == before


def test_a_step_beyond_the_last_one_is_refused(stopped: Path) -> None:
    found = checkpoint.load(stopped / "checkpoints")
    found.state["progress"]["step"] = step = 7 * STEPS_PER_EPOCH
    checkpoint.save(stopped / "checkpoints", step, found.arrays, found.state)
    with pytest.raises(CheckpointError, match="step is 35, expected at most 30"):
        fit(stopped, resume=True)


def test_a_checkpoint_that_was_skipped_is_said(stopped: Path) -> None:
    newest = checkpoint.latest(stopped / "checkpoints")
    assert newest is not None
    (newest / "arrays.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=rf"(?s)resumes from step 5.*{newest.name}.*bytes"):
        history = fit(stopped, resume=True)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]


def test_what_an_interrupted_clean_up_left_is_removed_when_the_run_is_resumed(tmp_path: Path) -> None:
    fit(tmp_path)
    left = tmp_path / "checkpoints" / ".tmp-ckpt-00000005"
    left.mkdir()
    (left / "arrays.safetensors").write_bytes(b"many")
    history = fit(tmp_path, resume=True)
    assert len(history) == 6 and not left.exists()


def test_more_steps_than_a_checkpoint_can_name_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = MAX_STEP // STEPS_PER_EPOCH * STEPS_PER_EPOCH
    limit = steps // STEPS_PER_EPOCH
    Trainer(make_net(), make_data(), make_config(epochs=limit - 2))
    monkeypatch.setattr(Trainer, "step", lambda _: pytest.fail("it was trained"))
    with pytest.raises(svd.SvdValueError, match=r"100,000,000 steps.*expected at most 99,999,999.*batch_size"):
        svd.fit(make_net(), make_data(), make_config(epochs=limit - 1), progress=False)


def test_a_first_checkpoint_that_failed_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a kill nor a full disk during the first checkpoint is a dead end."""

    def killed(*_: Any, **__: Any) -> None:
        (tmp_path / "checkpoints" / ".tmp-ckpt-00000000").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        fit(tmp_path, resume=True)
    assert len(fit(tmp_path)) == 6 == len(run_log(tmp_path))
    assert not list((tmp_path / "checkpoints").glob(".*"))
