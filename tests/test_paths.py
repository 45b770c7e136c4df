"""Paths: the home folder, and the current folder, which may change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from small_runs import make_config, make_data, make_net, run_log

import svd_numpy as svd
from svd_numpy.checks import SvdTypeError, SvdValueError, as_path, check_path
from svd_numpy.files import checkpoint


def fit(run_dir: Any, callbacks: Any = (), resume: bool = False) -> None:
    svd.fit(make_net(), make_data(), make_config(), callbacks, run_dir, resume, progress=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder; the current folder is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder(home: Path) -> None:
    fit("~/runs/one")
    fit(Path("~/runs/one"), resume=True)
    assert len(run_log(home / "runs" / "one")) == 6
    make_net().save("~/m.safetensors")
    svd.Sequential.load("~/m.safetensors")
    assert (home / "m.safetensors").is_file() and checkpoint.latest("~/runs/one/checkpoints") is not None
    assert os.listdir(".") == []


def test_a_run_stays_in_its_folder_when_the_current_one_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: Any) -> None:
        monkeypatch.chdir(home)

    fit("run", [leave])
    assert os.listdir(home) == [] and len(run_log(home.parent / "here" / "run")) == 6


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("a\0b", SvdValueError, "run_dir: got .*null character"),
        ("~nobody-of-this-name/x", SvdValueError, "run_dir: got .*home folder"),
        (3, SvdTypeError, "run_dir: got 3 of type int, expected a path"),
        (b"bytes", SvdTypeError, "run_dir: got b'bytes' of type bytes"),
    ],
)
def test_what_is_no_path_is_named(value: Any, error: type[Exception], words: str) -> None:
    for check in (as_path, check_path):
        with pytest.raises(error, match=words):
            check("run_dir", value)
    assert check_path("run_dir", None) is None
