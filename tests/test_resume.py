"""Runs that are stopped, killed and resumed: the same bits, and a log without gap or repetition."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import STEPS_PER_EPOCH, bits, make_config, make_data, make_net, run_log, timeless, tree

import svd_numpy as svd
from svd_numpy.files import checkpoint
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.train import loop as train
from svd_numpy.train.trainer import Trainer

LAST_STEP = 6 * STEPS_PER_EPOCH


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Bits and records of the run that nobody stopped."""
    model = make_net()
    history = svd.fit(model, make_data(), make_config(), progress=False)
    return bits(model), timeless(history)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, stop: Any) -> None:
    """Call `stop` once, at the end of optimisation step number `step`."""
    original = Trainer.step

    def counted(self: Trainer) -> None:
        original(self)
        if self.progress.step == step:
            monkeypatch.setattr(Trainer, "step", original)
            stop()

    monkeypatch.setattr(Trainer, "step", counted)


def go_on(run_dir: Path) -> svd.Sequential:
    model = make_net()
    data = make_data()
    model.loss_and_grads(data.x_test, data.y_test, len(data.x_train))  # gradients that nobody needs any more
    model.parameters["dense1.theta"][...] = 7.0  # whatever stood there, the checkpoint's weights replace it
    svd.fit(model, data, make_config(), run_dir=run_dir, resume=True, progress=False)
    return model


@pytest.mark.parametrize(
    "step",
    [1, 2, STEPS_PER_EPOCH, 7, 2 * STEPS_PER_EPOCH + 4, 20, 21, 23, 25, LAST_STEP - 1],
)
def test_ctrl_c_after_any_step_then_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Any, Any], step: int
) -> None:
    """Inside an epoch, at its end, at the threshold of fine-tuning and within it."""
    before = signal.getsignal(signal.SIGINT)  # a job in the background of a shell has SIG_IGN
    stop_after(monkeypatch, step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(svd.TrainingInterrupted, match=r"SIGINT; continue with run_dir=.*resume=True") as caught:
        svd.fit(make_net(), make_data(), make_config(), run_dir=tmp_path, progress=False)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert checkpoint.load(tmp_path / "checkpoints").step == step
    assert signal.getsignal(signal.SIGINT) is before
    model = go_on(tmp_path)
    assert bits(model) == whole[0]
    assert run_log(tmp_path) == whole[1]


def test_numba_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, broken, resumed = (make_net("numba") for _ in range(3))
    history = svd.fit(model, make_data(), make_config(), progress=False)
    stop_after(monkeypatch, 8, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(svd.TrainingInterrupted):
        svd.fit(broken, make_data(), make_config(), run_dir=tmp_path, progress=False)
    svd.fit(resumed, make_data(), make_config(), run_dir=tmp_path, resume=True, progress=False)
    assert bits(resumed) == bits(model)
    assert run_log(tmp_path) == timeless(history)


def test_stopped_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Any, Any]) -> None:
    for count, step in enumerate((1, 4, 9, 10, 22)):
        stop_after(monkeypatch, step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(svd.TrainingInterrupted, match="SIGTERM"):
            svd.fit(make_net(), make_data(), make_config(), run_dir=tmp_path, resume=count > 0, progress=False)
    assert bits(go_on(tmp_path)) == whole[0]
    assert run_log(tmp_path) == whole[1]


def test_without_a_run_folder_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(svd.TrainingInterrupted, match="nothing was saved"):
        svd.fit(make_net(), make_data(), make_config(), progress=False)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stop_after(monkeypatch, 7, twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        svd.fit(make_net(), make_data(), make_config(), run_dir=tmp_path, progress=False)
    assert not isinstance(caught.value, svd.TrainingInterrupted)
    assert checkpoint.load(tmp_path / "checkpoints").step == STEPS_PER_EPOCH  # the last one saved


@pytest.mark.parametrize("epoch", [1, 3, 5])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_callback_that_raises_then_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Any, Any], epoch: int, seconds: float
) -> None:
    """The log is then ahead of the checkpoint (with few checkpoints, by epochs): resuming cuts it back."""
    monkeypatch.setattr(train, "SAVE_SECONDS", seconds)

    def fail(_: Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == epoch:
            raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        svd.fit(make_net(), make_data(), make_config(), [fail], tmp_path, progress=False)
    assert len(run_log(tmp_path)) == epoch
    saved = checkpoint.load(tmp_path / "checkpoints").step
    assert saved == (0 if seconds else (epoch - 1) * STEPS_PER_EPOCH)
    assert bits(go_on(tmp_path)) == whole[0]
    assert run_log(tmp_path) == whole[1]


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import svd_numpy as svd
from svd_numpy.files import checkpoint
from svd_numpy.train import loop as train
from small_runs import make_config, make_data, make_net

train.SAVE_SECONDS = 0.0
step = train.Trainer.step

def slow(self):
    step(self)
    print(self.progress.step, flush=True)
    time.sleep(0.003)

train.Trainer.step = slow
run = Path(sys.argv[1])
resume = checkpoint.latest(run / "checkpoints") is not None
print("resume" if resume else "new", flush=True)
svd.fit(make_net(), make_data(), make_config(epochs=40), run_dir=run, resume=resume, progress=False)
print("done", flush=True)
"""


def start(run_dir: Path) -> subprocess.Popen[str]:
    root = Path(svd.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLED, str(run_dir), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_sigkill_at_six_random_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    said = []
    for _ in range(6):
        with start(tmp_path) as child:
            assert child.stdout is not None
            said.append(child.stdout.readline().strip())
            for _ in range(int(rng.integers(1, 40))):
                child.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))
            child.kill()
        assert child.returncode == -signal.SIGKILL
        assert checkpoint.load(tmp_path / "checkpoints").skipped == []
    assert said == ["new"] + ["resume"] * 5
    with start(tmp_path) as child:
        out, _ = child.communicate()
    assert child.returncode == 0 and out.endswith("done\n")
    model = make_net()
    history = svd.fit(model, make_data(), make_config(epochs=40), progress=False)
    last = checkpoint.load(tmp_path / "checkpoints")
    assert last.step == 42 * STEPS_PER_EPOCH
    assert run_log(tmp_path) == timeless(history)
    assert last.arrays["params"].tobytes() == model.arena.params.tobytes()
    assert last.arrays["m"].tobytes() == model.arena.m.tobytes()
    assert last.arrays["v"].tobytes() == model.arena.v.tobytes()


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_no_bits(tmp_path: Path, whole: tuple[Any, Any]) -> None:
    def stop(_: Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        svd.fit(make_net(), make_data(), make_config(), [stop], tmp_path, progress=False)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "ckpt-00000015"
    (newest / "arrays.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="resumes from step 10"):
        model = go_on(tmp_path)
    assert bits(model) == whole[0]
    assert run_log(tmp_path) == whole[1]


# ---- what is refused, and what a finished run does


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    svd.fit(make_net(), make_data(), make_config(), run_dir=tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_resuming_a_finished_run_only_reads_it_back(finished: Path, whole: tuple[Any, Any]) -> None:
    before = tree(finished)

    def never(*_: Any) -> None:
        pytest.fail("a finished run was trained on")

    model = make_net()
    history = svd.fit(model, make_data(), make_config(), [never], finished, resume=True, progress=False)
    assert timeless(history) == whole[1] and bits(model) == whole[0]
    assert tree(finished) == before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: (make_net(), make_data(), make_config(lr=0.5, epochs=9)),
         r"another config \(differs in \['epochs', 'lr'\]: \[4, 0.01\] there, \[9, 0.5\] asked for"),
        (lambda: (make_net(), make_data(), make_config(kl_schedule=((0, 1),))), r"\['kl_schedule'\]"),
        (lambda: (make_net(seed=4), make_data(), make_config()),
         r"another model \(differs in \['seed'\]: \[0\]"),
        (lambda: (make_net(prior="ard"), make_data(), make_config()), r"\['prior'\]"),
        (lambda: (make_net("numba"), make_data(), make_config()),
         r"\['backend'\]: \['numpy'\] there, \['numba'\]"),
        (lambda: (make_net(), make_data(n_train=100), make_config()),
         r"another data \(differs in \['n_train', 'sha256'\]"),
    ],
)  # fmt: skip
def test_resuming_with_other_settings_names_them(finished: Path, make: Any, words: str) -> None:
    model, data, config = make()
    before, weights = tree(finished), bits(model)
    with pytest.raises(ValueError, match=words):
        svd.fit(model, data, config, run_dir=finished, resume=True, progress=False)
    assert tree(finished) == before and bits(model) == weights


@pytest.mark.parametrize("lost", ["", "metrics.jsonl", "checkpoints"])
def test_an_existing_run_is_not_overwritten(finished: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Neither where both its log and its checkpoints are there, nor where one of them is."""
    if lost:
        (finished / lost).rename(finished.parent / lost)
    before, model = tree(finished), make_net()
    weights = bits(model)
    monkeypatch.setattr(Trainer, "step", lambda _: pytest.fail("it was trained"))
    with pytest.raises(ValueError, match=r"(holds a run already|already holds a (run|log)).*resume=True"):
        svd.fit(model, make_data(), make_config(), run_dir=finished, progress=False)
    assert tree(finished) == before and bits(model) == weights


def test_resuming_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        svd.fit(make_net(), make_data(), make_config(), run_dir=tmp_path / "none", resume=True, progress=False)
    with pytest.raises(ValueError, match="resume=True needs run_dir"):
        svd.fit(make_net(), make_data(), make_config(), resume=True, progress=False)
    assert tree(tmp_path) == {}


def test_a_run_folder_that_cannot_be_made_is_known_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(Trainer, "step", lambda _: pytest.fail("it was trained"))
    with pytest.raises(OSError, match="file/run"):
        svd.fit(make_net(), make_data(), make_config(), run_dir=tmp_path / "file" / "run", progress=False)
