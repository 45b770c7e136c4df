"""A run folder has one owner at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import environment
from small_runs import make_config, make_data, make_net, run_log, tree

import svd_numpy as svd
from svd_numpy.checks import SvdError

OWNER = """
import sys
sys.path.insert(0, sys.argv[2])
import svd_numpy as svd
from small_runs import make_config, make_data, make_net

def wait(trainer, record):
    print(record["epoch"], flush=True)
    sys.stdin.readline()

svd.fit(make_net(), make_data(), make_config(), [wait], sys.argv[1], sys.argv[3] == "resume", progress=False)
"""


def start(run_dir: Path, how: str = "new") -> subprocess.Popen[str]:
    """Start a process that trains in this folder and waits in its first epoch; return once it waits."""
    command = [sys.executable, "-c", OWNER, str(run_dir), str(Path(__file__).parent), how]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    assert child.stdout is not None and child.stdout.readline()
    return child


def fit(run_dir: Path, **options: Any) -> list[dict[str, Any]]:
    return svd.fit(make_net(), make_data(), make_config(), run_dir=run_dir, progress=False, **options)


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_process_is_told_who_owns_the_folder(tmp_path: Path, resume: bool) -> None:
    with start(tmp_path / "run") as child:
        before = tree(tmp_path)
        with pytest.raises(SvdError, match=rf"run is in use by process {child.pid} .*wait until it has ended"):
            fit(tmp_path / "run", resume=resume)
        assert tree(tmp_path) == before  # neither the lock nor anything else was touched
        child.communicate("\n" * 6)
    assert child.returncode == 0
    assert [record["epoch"] for record in run_log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert not [name for name in tree(tmp_path) if "lock" in name]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_the_lock_of_a_dead_owner_is_taken(tmp_path: Path) -> None:
    with start(tmp_path) as child:
        child.kill()
    with start(tmp_path, "resume") as child:  # also while another process resumes
        with pytest.raises(SvdError, match=f"process {child.pid} "):
            fit(tmp_path, resume=True)
        child.kill()
    history = fit(tmp_path, resume=True)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]


def test_two_runs_of_one_process_cannot_share_a_folder(tmp_path: Path) -> None:
    def again(*_: Any) -> None:
        with pytest.raises(SvdError, match=f"in use by process {os.getpid()} "):
            fit(tmp_path, resume=True)

    history = svd.fit(make_net(), make_data(), make_config(), [again], tmp_path, progress=False)
    assert len(history) == 6 and fit(tmp_path, resume=True) == history


def test_a_run_that_fails_lets_go_of_its_folder(tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        svd.fit(make_net(), make_data(), make_config(), [fail], tmp_path, progress=False)
    with pytest.raises(ValueError, match="another model"):
        svd.fit(make_net(seed=1), make_data(), make_config(), (), tmp_path, resume=True, progress=False)
    assert len(fit(tmp_path, resume=True)) == 6


def test_a_lock_file_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network folders know no locks."""
    fcntl = pytest.importorskip("fcntl", reason="needs flock")

    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert len(fit(tmp_path)) == 6
