"""Paths: the home folder, and the current folder, which may change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cli_tools import TINY
from small_runs import make_config, make_data, make_net, run_log

import svd_numpy as svd
from svd_numpy.checks import SvdTypeError, SvdValueError, as_path, check_path
from svd_numpy.cli import main as cli
from svd_numpy.data.idx import idx_header, read_idx
from svd_numpy.files import checkpoint
from svd_numpy.files.run_log import read_log


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


def test_a_tilde_is_the_home_folder_for_every_format(home: Path) -> None:
    model = make_net()
    small = svd.compress(model, backend="numpy")
    small.save("~/small.safetensors")
    svd.SparseModel.load("~/small.safetensors")
    svd.save_packed("~/net.svdz", small)
    svd.load_packed("~/net.svdz", "numpy")
    svd.save_torch_state_dict("~/torch.safetensors", model)
    model.init_from(svd.from_torch_state_dict(model, "~/torch.safetensors"))
    small.export_numpy("~/net.npz")
    svd.export_csr(small, "~/csr")
    fit("~/run")
    read_log("~/run/metrics.jsonl")
    (home / "idx").write_bytes(idx_header((2,)) + b"12")
    read_idx("~/idx")
    written = {"small.safetensors", "net.svdz", "torch.safetensors", "net.npz", "net_reader.py", "csr", "run", "idx"}
    assert set(os.listdir(home)) == written and os.listdir(".") == []


def test_a_tilde_is_the_home_folder_on_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shell expands it only at the beginning of a word: not in --run-dir=~/run."""
    train = ["train", *TINY, "--epochs", "1"]
    assert cli.main([*train, "--run-dir=~/run"]) == 0
    start = "--init-from=~/run/model.safetensors"
    assert cli.main([*train, "--run-dir=~/next", start]) == 0
    for command in (["evaluate", "~/run"], ["evaluate", "~/run/model.safetensors"], ["report", "~/run"]):
        assert cli.main(command) == 0, capsys.readouterr().err
    assert cli.main(["animate", "~/run"]) == 0, capsys.readouterr().err
    assert (home / "run" / "sparsity.gif").is_file() and (home / "run" / "figures").is_dir()
    assert cli.main(["uncertainty", "~/absent"]) == 2
    assert str(home / "absent" / "model.safetensors") in capsys.readouterr().err
    assert cli.main(["data", "import", "~/absent"]) == 2 and os.listdir(".") == []


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
