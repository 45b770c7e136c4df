"""TensorBoard and MLflow: what they show is what the log of the run says, each epoch once."""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import svd_numpy as svd
from svd_numpy.cli.main import parse
from svd_numpy.files.run_log import read_log
from svd_numpy.train import trackers
from svd_numpy.train.trackers import figures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SMALL: dict[str, Any] = {
    "dataset": "digits", "recipe": "small", "epochs": 3, "backend": "numpy", "progress": False
}  # fmt: skip
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}"))
    for name, package in (("tensorboard", "tensorboard"), ("mlflow", "mlflow"))
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, blank_pictures: None) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def shown(name: str, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every curve, as the tool itself reads them."""
    if name == "tensorboard":
        accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
        return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    import mlflow

    with trackers._file_store_allowed():
        client = mlflow.MlflowClient((folder.parent / "mlruns").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'svd-numpy'")
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in runs if run.info.run_name == folder.name]
    assert run.data.params["lr"] and run.info.status == "FINISHED"
    history = {tag: client.get_metric_history(run.info.run_id, tag) for tag in run.data.metrics}
    return {tag: sorted((one.step, one.value) for one in ones) for tag, ones in history.items()}


def agrees(name: str, folder: Path) -> None:
    """The tool shows all numbers of the log, and each epoch once."""
    found, records = shown(name, folder), read_log(folder / "metrics.jsonl")
    assert {tag for record in records for tag in figures(record)} == set(found)
    for tag, curve in found.items():
        expected = [(record["epoch"], figures(record)[tag]) for record in records if tag in figures(record)]
        assert Counter(step for step, _ in curve) == Counter(step for step, _ in expected), tag
        if tag not in ("seconds", "ms_per_step"):  # an epoch that was done twice took another time
            assert [value for _, value in curve] == pytest.approx([value for _, value in expected], rel=1e-6), tag


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_shows_the_log_of_a_run_and_of_one_that_goes_on(name: str, tmp_path: Path) -> None:
    svd.train_mnist(**SMALL, run_dir=tmp_path / "run", log=(name,))
    agrees(name, tmp_path / "run")
    svd.train_mnist(**SMALL, run_dir=tmp_path / "run", log=name, resume=True, extend=2)
    agrees(name, tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_done_again_from_its_last_checkpoint_has_each_epoch_once(name: str, tmp_path: Path) -> None:
    """Killed after its second epoch, of which the tool knows and the checkpoint, of the beginning, does not."""

    class Killed(BaseException):
        pass

    def kill(trainer: Any, record: Any) -> None:
        if record["epoch"] == 2:
            raise Killed

    model = lambda: svd.Sequential(svd.VariationalDense(784, 10), backend="numpy")  # noqa: E731
    data, config = svd.load("digits"), svd.TrainConfig(epochs=4)
    tracker = trackers.TRACKERS[name]
    with pytest.raises(Killed):
        svd.fit(model(), data, config, [tracker(tmp_path / "run"), kill], tmp_path / "run", progress=False)
    svd.fit(model(), data, config, [tracker(tmp_path / "run")], tmp_path / "run", resume=True, progress=False)
    agrees(name, tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
def test_sweeps_log_every_run(name: str, tmp_path: Path) -> None:
    options = {**SMALL, "epochs": 2, "log": (name,)}
    svd.sweep(run_dir=tmp_path / "sweep", seeds=2, jobs=2, **options)
    for seed in range(2):
        agrees(name, tmp_path / "sweep" / f"seed={seed}")


def test_a_tool_that_fails_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")

    def fail(self: Any, records: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(trackers.TensorBoardLog, "write", fail)
    with pytest.warns(UserWarning, match=r"tensorboard gets no more of this run .*no space left") as caught:
        result = svd.train_mnist(**SMALL, run_dir=tmp_path / "run", log=("tensorboard",))
    assert len(caught) == 1 and len(result.history) == len(read_log(tmp_path / "run" / "metrics.jsonl"))


def test_errors_come_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(svd.SvdValueError, match=r"log: got 'wandb', expected .*tensorboard.*mlflow"):
        svd.train_mnist(**SMALL, run_dir=tmp_path / "run", log=("wandb",))
    with pytest.raises(svd.SvdTypeError, match="log: got 3"):
        svd.train_mnist(**SMALL, run_dir=tmp_path / "run", log=3)  # type: ignore[call-overload]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(svd.SvdValueError, match=rf"pip install 'svd-numpy\[{name}\]'"):
            svd.train_mnist(**SMALL, run_dir=tmp_path / "run", log=(name,))
    monkeypatch.undo()
    with pytest.raises(svd.SvdValueError, match="log: needs run_dir"):
        svd.train_mnist(**SMALL, log=("tensorboard",))
    assert not any(tmp_path.iterdir())


def test_the_command_line_repeats_the_option() -> None:
    command: Any = parse(["train", "--log", "tensorboard", "mlflow", "--seed", "3"])
    assert command.log == ("tensorboard", "mlflow")
    assert command.command_line() == "svd-numpy train --seed 3 --log tensorboard mlflow"


def test_runs_that_begin_at_the_same_moment_share_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv(trackers._FILE_STORE, "true")
    folders = [tmp_path / f"run-{number}" for number in range(8)]
    together = threading.Barrier(len(folders))

    def begin(folder: Path) -> str:
        folder.mkdir()
        tracker = trackers.MlflowLog(folder)
        together.wait()
        tracker.begin(svd.TrainConfig(epochs=1))
        return folder.joinpath(trackers.RUN_ID).read_text()

    with ThreadPoolExecutor(len(folders)) as pool:
        runs = list(pool.map(begin, folders))
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    assert sorted(one.name for one in client.search_experiments()) == ["Default", "svd-numpy"]
    assert len({client.get_run(run).info.experiment_id for run in runs}) == 1
