"""What a sweep says of schedulers, workers and disks that are not as they should be; nothing that was done is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, environment

import svd_numpy as svd
from svd_numpy.experiments.sweep import engines
from svd_numpy.files import checkpoint, run_log

SHARED: dict[str, Any] = {"dataset": "digits", "recipe": "small", "epochs": 2, "backend": "numpy", "progress": False}


def bits(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/model.safetensors"))}


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("nonsense", svd.SvdValueError, "got 'nonsense' .*missing port.*'tcp://host:8786'"),
        ("tcp://host", svd.SvdValueError, "missing port"),
        ("http://host:8787", svd.SvdValueError, "unknown address scheme"),
        ("", svd.SvdValueError, "or 'local'"),
        (8786, svd.SvdTypeError, "got 8786, expected an address"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_written(
    tmp_path: Path, address: Any, error: Any, words: str
) -> None:
    pytest.importorskip("distributed", reason="pip install 'svd-numpy[cluster]'")
    with pytest.raises(error, match=words):
        svd.sweep(run_dir=tmp_path / "s", scheduler=address, **SHARED)
    assert not (tmp_path / "s").exists()


def test_without_dask_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed.comm", None)
    with pytest.raises(svd.SvdValueError, match=r"pip install 'svd-numpy\[cluster\]'"):
        svd.sweep(run_dir=tmp_path / "s", scheduler="local", **SHARED)
    assert not (tmp_path / "s").exists()


class Cluster:
    """A client of Dask whose workers say what they are told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def run(self, function: Any) -> dict[str, str]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"tcp://a:1": engines._version(), "tcp://b:2": self.answer}


def test_a_worker_with_another_version_or_none() -> None:
    engines._require_this_version(Cluster(engines._version()))
    with pytest.raises(svd.SvdValueError, match=r"tcp://b:2 has svd_numpy 9.9, this process has .*the same version"):
        engines._require_this_version(Cluster("9.9"))
    with pytest.raises(svd.SvdValueError, match=r"cannot import svd_numpy .*install it there"):
        engines._require_this_version(Cluster(ImportError("No module named 'svd_numpy'")))


def test_a_worker_that_comes_later_with_another_version_does_nothing(tmp_path: Path) -> None:
    task = engines.Task("mnist", str(tmp_path / "run"), {"seed": 0}, {})
    assert "the sweep 9.9; install the same version" in engines._do_with("9.9", task)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["checkpoint", "log"])
def test_a_full_disk_costs_one_run_and_only_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_pictures: None, where: str
) -> None:
    """The second of three runs finds the disk full."""
    numbers: dict[str, Any] = {**SHARED, "kl_weight": [0.5, 1.0, 2.0]}
    svd.sweep(run_dir=tmp_path / "undisturbed", **numbers)
    module, name = (checkpoint, "save") if where == "checkpoint" else (run_log, "_append_line")
    write, calls = getattr(module, name), list[Path]()

    def full(path: Path, *content: Any) -> Any:
        if "kl_weight=1-" in str(path):
            calls.append(path)
            if len(calls) > 1:  # it has begun
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *content)

    monkeypatch.setattr(module, name, full)
    found = svd.sweep(run_dir=tmp_path / "s", **numbers)
    assert len(calls) > 1
    ((folder, said),) = found.failed.items()
    assert folder.endswith("kl_weight=1-seed=0") and "No space left on device" in said
    assert len(found.rows) == 2 and "failed: kl_weight=1-seed=0" in str(found)
    monkeypatch.undo()
    again = svd.sweep(run_dir=tmp_path / "s", **numbers)
    assert not again.failed and len(again.rows) == 3
    assert bits(tmp_path / "s") == bits(tmp_path / "undisturbed")


def test_a_worker_that_does_not_see_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "do", lambda task: "")  # it trained, on a disk of its own
    found = svd.sweep(run_dir=tmp_path / "s", **SHARED)
    (said,) = found.failed.values()
    assert "all machines must see" in said and str((tmp_path / "s").resolve()) in said


@pytest.mark.slow
def test_a_scheduler_that_is_killed_and_started_again_costs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="pip install 'svd-numpy[cluster]'")
    if not sys.platform.startswith("linux"):
        pytest.skip("looks for workers in /proc")
    script = ROOT / "benchmarks" / "sweep_under_fire.py"
    words = ["--points", "4", "--seeds", "1", "--epochs", "60", "--kill-every", "6", "--out", str(tmp_path / "found")]
    done = subprocess.run(
        [sys.executable, str(script), *words, "--only", "scheduler killed (Dask)"],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| scheduler killed (Dask) |" in (tmp_path / "found.md").read_text()
    assert "'moments': []" not in done.stdout, "the sweep ended before the scheduler was killed"
