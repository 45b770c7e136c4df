"""A first checkpoint that failed leaves no dead end on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from svd_numpy.cli import main as cli

TRAIN = ["train", "--dataset", "digits", "--backend", "numpy", "--epochs", "1", "--batch-size", "480", "--no-progress"]


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_can_begin_where_the_first_checkpoint_was_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "R" / "checkpoints" / ".tmp-ckpt-00000000").mkdir(parents=True)
    assert cli.main([*TRAIN, "--run-dir", str(tmp_path / "R"), "--resume"]) == 2
    assert "holds no run to go on with: leave out --resume" in capsys.readouterr().err
    assert cli.main([*TRAIN, "--run-dir", "~/R"]) == 0
    assert (tmp_path / "R" / "result.json").is_file() and not list(tmp_path.glob("R/checkpoints/.*"))
    assert cli.main([*TRAIN, "--run-dir", str(tmp_path / "R")]) == 2
    assert "already holds a run: --resume goes on with it" in capsys.readouterr().err
    assert not os.path.exists("~")
