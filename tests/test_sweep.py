"""Sweeps: what is run, where, what is kept, and what survives when workers, schedulers and sweeps die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import environment

import svd_numpy as svd
from svd_numpy.cli.sweeps import parse_number
from svd_numpy.experiments.sweep import engines
from svd_numpy.experiments.sweep.points import points
from svd_numpy.experiments.sweep.result import SweepResult

SHARED: dict[str, Any] = {"dataset": "digits", "recipe": "small", "epochs": 2, "backend": "numpy"}
pytestmark = pytest.mark.usefixtures("blank_pictures")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for workers in /proc")


def bits(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/model.safetensors"))}


# --- Points ---


def test_every_combination_or_random_ones() -> None:
    grid = points({"a": [1, 2], "b": range(3)}, None, 0)
    assert grid == [{"a": a, "b": b} for a in (1, 2) for b in range(3)]
    assert points({}, None, 0) == [{}]
    drawn = points({"lr": svd.Between(1e-4, 1e-2, log=True), "kl": svd.Between(-1, 3), "a": [5, 6]}, 200, 1)
    assert drawn == points({"lr": svd.Between(1e-4, 1e-2, log=True), "kl": svd.Between(-1, 3), "a": [5, 6]}, 200, 1)
    rates = np.log10([point["lr"] for point in drawn])
    assert (
        -4 <= rates.min() < -3.9 and -2.1 < rates.max() <= -2 and abs(rates.mean() + 3) < 4 * (2 / 12**0.5) / 200**0.5
    )
    assert abs(np.mean([point["kl"] for point in drawn]) - 1) < 4 * (4 / 12**0.5) / 200**0.5
    assert {point["a"] for point in drawn} == {5, 6}
    assert len(points({"a": [1, 2, 3]}, 3, 0)) == 3


@pytest.mark.parametrize(
    ("varied", "samples", "words"),
    [
        ({"a": []}, None, "no values"),
        ({"a": [1, 2, 1]}, None, "1 more than once"),
        ({"a": svd.Between(0, 1)}, None, "needs `samples`"),
        ({"a": [1, 2]}, 3, "only 2 different points"),
        ({name: range(100) for name in "abc"}, None, "more than 100,000"),
    ],
)
def test_points_that_make_no_sense(varied: Any, samples: int | None, words: str) -> None:
    with pytest.raises(svd.SvdValueError, match=words):
        points(varied, samples, 0)
    with pytest.raises(svd.SvdValueError, match="low < high"):
        svd.Between(0, 1, log=True)


def test_numbers_as_they_are_typed() -> None:
    assert parse_number("lr=1e-3,3e-3") == ("lr", [1e-3, 3e-3])
    assert parse_number("epochs=20") == ("epochs", 20) and parse_number("dataset=digits") == ("dataset", "digits")
    assert parse_number("remove_above=none,5") == ("remove_above", [None, 5])
    assert parse_number("lr=1e-4..1e-2") == ("lr", svd.Between(1e-4, 1e-2, log=True))
    assert parse_number("t=1..3") == ("t", svd.Between(1, 3))
    for text in ("lr", "=3", "lr=", "lr=a..b", "l r=3"):
        with pytest.raises(svd.SvdValueError, match="numbers: got"):
            parse_number(text)


# --- Runs ---


def test_a_run_of_a_sweep_is_the_run_of_its_experiment(tmp_path: Path) -> None:
    found = svd.sweep(run_dir=tmp_path / "s", kl_weight=[0.5, 2.0], lr=2e-3, seeds=[3, 1], progress=False, **SHARED)
    alone = svd.train_mnist(kl_weight=2.0, seed=1, held_out=0.1, changes={"lr": 2e-3}, progress=False, **SHARED)
    last = alone.history[-1]
    (row,) = [row for row in found.rows if (row["kl_weight"], row["seed"]) == (2.0, 1)]
    assert (row["valid_error"], row["valid_nll"]) == (last["valid_error"], last["valid_nll"])
    assert len(alone.data.y_valid) == round(0.1 * 1437)  # type: ignore[arg-type]
    kept = svd.Sequential.load(tmp_path / "s" / "kl_weight=2-seed=1" / "model.safetensors")
    for name, array in alone.model.parameters.items():
        np.testing.assert_array_equal(kept.parameters[name], array)
    assert len(found.rows) == 4 and not found.failed and len(found.points) == 2
    assert (tmp_path / "s" / "sweep.png").is_file() and "kl_weight" in (tmp_path / "s" / "sweep.md").read_text()


def test_a_sweep_started_again_does_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = svd.sweep(run_dir=tmp_path, kl_weight=[0.5], **SHARED)
    written = (tmp_path / "kl_weight=0.5-seed=0" / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    more = svd.sweep(run_dir=tmp_path, kl_weight=[0.5, 1.0], **SHARED)
    out = capsys.readouterr().out.splitlines()
    assert "1/2" in out[0] and "done before" in out[0] and "2/2  kl_weight=1-seed=0" in out[1]
    assert (tmp_path / "kl_weight=0.5-seed=0" / "result.json").stat().st_mtime_ns == written
    assert more.rows[0] == first.rows[0]
    for change in ({"epochs": 4}, {"lr": 1e-3}, {"kl_weight": 0.5}, {"held_out": 0.2}):
        with pytest.raises(svd.SvdValueError, match="holds another sweep"):
            svd.sweep(run_dir=tmp_path, **{"kl_weight": [0.5], **SHARED, **change})


@pytest.mark.parametrize(
    ("numbers", "error", "words"),
    [
        ({"lrr": 3}, svd.SvdValueError, "got 'lrr', expected some of"),
        ({"lr": [1e-3, -1.0]}, svd.SvdValueError, "lr"),
        ({"kl_weight": [0.5, "many"]}, svd.SvdTypeError, "kl_weight"),
        ({"seed": 3}, svd.SvdTypeError, "seed: a sweep sets this"),
        ({"arch": ["lenet-300-100", "vgg"]}, svd.SvdValueError, "vgg"),
        ({"kl_schedule": [((0.0, 1.0),)]}, svd.SvdTypeError, "folder's name"),
        ({"held_out": 0.7}, svd.SvdValueError, "held_out"),
        ({"jobs": 0}, svd.SvdValueError, "jobs"),
    ],
)
def test_nothing_is_written_for_numbers_that_make_no_sense(
    tmp_path: Path, numbers: dict[str, Any], error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        svd.sweep(run_dir=tmp_path / "s", **{**SHARED, **numbers})
    assert not (tmp_path / "s").exists()


def test_a_run_that_fails_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sweep.json").write_text("{", encoding="utf-8")
    with pytest.raises(svd.SvdValueError, match="is damaged"):
        svd.sweep(run_dir=tmp_path / "s", **SHARED)
    (tmp_path / "s" / "sweep.json").unlink()
    (tmp_path / "s" / "mine.txt").write_text("", encoding="utf-8")
    with pytest.raises(svd.SvdValueError, match="something else already"):
        svd.sweep(run_dir=tmp_path / "s", **SHARED)
    svd.sweep(run_dir=tmp_path / "t", lr=[1e-3], progress=False, **SHARED)
    in_the_way = tmp_path / "t" / "lr=0.002-seed=0"
    in_the_way.write_text("", encoding="utf-8")
    found = svd.sweep(run_dir=tmp_path / "t", lr=[2e-3, 1e-3, 3e-3], progress=False, **SHARED)
    (said,) = found.failed.values()
    assert "lr=0.002-seed=0" in said and len(found.rows) == 2 and "failed: lr=0.002-seed=0" in str(found)
    in_the_way.unlink()
    found = svd.sweep(run_dir=tmp_path / "t", lr=[2e-3, 1e-3, 3e-3], progress=False, **SHARED)
    assert len(found.rows) == 3 and not found.failed


# --- Deaths ---


def workers() -> list[int]:
    """The processes that this one has started, and those that these have, which have a run's log open or not."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = stat.read_text().split(" (", 1)
        except OSError:
            continue
        parents[int(number)] = int(rest.rsplit(") ", 1)[1].split()[1])
    found, level = list[int](), {os.getpid()}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += sorted(level)
    return found


def holds_a_run(process: int, folder: Path) -> bool:
    try:
        return any(link.resolve().is_relative_to(folder) for link in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def kill_some(folder: Path, ended: threading.Event, killed: list[int], most: int) -> None:
    """Kill workers while they train, after their first epoch."""
    while len(killed) < most and not ended.wait(0.05):
        if any(folder.glob("*/metrics.jsonl")):
            for process in workers():
                if process not in killed and holds_a_run(process, folder):
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                    time.sleep(0.5)
                    break


LONGER: dict[str, Any] = {
    **SHARED, "backend": "numba", "epochs": 25, "kl_weight": [0.5, 1.0], "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    svd.sweep(run_dir=folder, seeds=2, **LONGER)
    return bits(folder)


@linux
@pytest.mark.parametrize("scheduler", [None, "local"])
def test_a_worker_that_is_killed_costs_nothing(
    tmp_path: Path, scheduler: str | None, undisturbed: dict[str, bytes]
) -> None:
    if scheduler:
        pytest.importorskip("distributed", reason="pip install 'svd-numpy[cluster]'")
    ended, killed = threading.Event(), list[int]()
    killer = threading.Thread(target=kill_some, args=(tmp_path, ended, killed, 2))
    killer.start()
    try:
        found = svd.sweep(run_dir=tmp_path, seeds=2, jobs=2, scheduler=scheduler, **LONGER)
    finally:
        ended.set()
        killer.join()
    assert killed and not found.failed and len(found.rows) == 4
    assert bits(tmp_path) == undisturbed


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="pip install 'svd-numpy[cluster]'")
    monkeypatch.setattr(engines, "PATIENCE", 0.5)
    with pytest.raises(svd.SvdError, match=r"nothing answers at 'tcp://127.0.0.1:9'.*does only what is missing"):
        svd.sweep(run_dir=tmp_path, scheduler="tcp://127.0.0.1:9", progress=False, **SHARED)


STOP = """
import svd_numpy as svd, sys
shared = dict(dataset="digits", recipe="small", epochs=25, backend="numba")
svd.sweep(run_dir=sys.argv[1], kl_weight=[0.5, 1.0], jobs=2, **shared)
"""


@linux
def test_ctrl_c_keeps_what_was_done(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    script = tmp_path / "stop.py"
    script.write_text(STOP, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "s")], env=environment(), start_new_session=True,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len([*tmp_path.glob("s/*/metrics.jsonl")]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    assert not [*tmp_path.glob("s/*/result.json")] and len([*tmp_path.glob("s/*/metrics.jsonl")]) == 2
    svd.sweep(run_dir=tmp_path / "s", **LONGER)
    done = bits(tmp_path / "s")
    assert len(done) == 2 and done.items() <= undisturbed.items()


# --- The table ---


def test_what_a_number_decides_and_which_points_nothing_beats() -> None:
    rows = [
        {"a": a, "b": b, "seed": seed, "valid_error": 0.1 * a + 0.001 * seed, "valid_nll": 1.0, "compression": 2.0**b,
         "seconds": 1.0}
        for a in (1, 2) for b in (1, 2) for seed in (0, 1)
    ]  # fmt: skip
    result = SweepResult(rows, ["a", "b"], {})
    assert result.importance() == {"a": pytest.approx(1), "b": 0}
    assert result.importance("compression") == {"a": 0, "b": pytest.approx(1)}
    assert [(point["a"], point["b"]) for point in result.points if point["best"]] == [(1, 2)]
    assert result.points[0]["valid_error"] == pytest.approx(0.1005)
    assert [axes.get_xlabel() for axes in result.plot().axes] == [
        "error on held-out images %",
        "share of the variance %",
    ]
    with pytest.raises(svd.SvdValueError, match="figure"):
        result.importance("error")
    assert str(SweepResult([], ["a"], {"x/lr=1": "no"})) == "no run has finished\nfailed: lr=1: no"
