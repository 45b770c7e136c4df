"""Runs from the command line: trained, interrupted and gone on with, read back."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import TINY, command, environment, plain_backend  # noqa: F401 - a fixture

import svd_numpy as svd
from svd_numpy.cli import main as cli
from svd_numpy.experiments import mnist
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.run_files import load_log_alphas
from svd_numpy.files.run_log import read_log
from svd_numpy.train.console import TrainingInterrupted


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of two epochs and one of fine-tuning, and what was printed meanwhile."""
    folder, out = tmp_path_factory.mktemp("cli") / "run", io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["train", *TINY, "--epochs", "2", "--run-dir", str(folder)]) == 0
    return folder, out.getvalue()


@pytest.fixture
def run_dir(trained: tuple[Path, str]) -> Path:
    """The folder of that run. Not to be changed: tests share it."""
    return trained[0]


# ------------------------------------------------------------ train


def test_train_prints_the_table_and_the_files(trained: tuple[Path, str]) -> None:
    folder, out = trained
    assert "Sparse VD, lenet-300-100 on digits" in out and "compression" in out
    assert (folder / "result.txt").read_text() in out
    assert str(folder) in out
    for name in ("model.safetensors", "result.json", "result.txt", "metrics.jsonl", "summary.png"):
        assert name in out and (folder / name).is_file()


def test_default_run_dir_names_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = cli.Train(dataset="digits", seed=4)
    assert digits.default_run_dir() == Path("runs/lenet-300-100-digits-default-seed4")
    other = cli.Train(dataset="digits", kind="dropout", random_labels=True)
    assert other.default_run_dir() == Path("runs/lenet-300-100-dropout-digits-random-labels-default-seed0")
    assert cli.TrainCifar(width=0.25).default_run_dir() == Path("runs/vgg-like-width0.25-cifar10-default-seed0")
    monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
    monkeypatch.delenv("SVD_NUMPY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("svd_numpy.data.sources.cache_dir", lambda: tmp_path)
    assert cli.Train(recipe="paper").default_run_dir() == Path("runs/lenet-300-100-digits-paper-seed0")


def test_train_writes_into_runs_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}

    def stop(**options: Any) -> None:
        seen.update(options)
        raise svd.SvdValueError("seen enough")

    monkeypatch.setattr(mnist, "train_mnist", stop)
    assert cli.main(["train", *TINY, "--seed", "7", "--eval-every", "0"]) == 2
    assert seen["run_dir"] == tmp_path / "runs" / "lenet-300-100-digits-default-seed7"
    assert seen["seed"] == 7 and seen["eval_every"] == 0 and seen["batch_size"] == 500
    assert list(tmp_path.iterdir()) == []


def test_train_refuses_an_existing_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    assert cli.main(["train", *TINY, "--epochs", "2", "--run-dir", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert "already holds a run" in error and "--resume" in error
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_resume_of_a_finished_run_shows_its_table(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = (run_dir / "result.txt").read_text()
    log = (run_dir / "metrics.jsonl").read_bytes()
    assert cli.main(["train", *TINY, "--epochs", "2", "--run-dir", str(run_dir), "--resume"]) == 0
    assert table in capsys.readouterr().out
    assert (run_dir / "metrics.jsonl").read_bytes() == log
    assert (run_dir / "result.txt").read_text() == table


def test_a_finished_run_is_extended(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "longer"
    shutil.copytree(run_dir, folder)
    before = (folder / "metrics.jsonl").read_text()
    command = ["train", *TINY, "--epochs", "2", "--run-dir", str(folder), "--resume", "--extend", "2"]
    assert cli.main(command) == 0
    after = (folder / "metrics.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == len(before.splitlines()) + 2
    out = capsys.readouterr().out
    assert "already finished" not in out and (folder / "result.txt").read_text() in out
    assert cli.main(command) == 0 and (folder / "metrics.jsonl").read_text() == after


def test_resume_with_other_settings_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TINY, "--epochs", "5", "--run-dir", str(run_dir), "--resume"]) == 2
    captured = capsys.readouterr()
    assert "another config" in captured.err and "compression" not in captured.out


def test_resume_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TINY, "--run-dir", str(tmp_path / "none"), "--resume"]) == 2
    assert "no run to go on with" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_interrupted_training_goes_on_without_gap_or_duplicate(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["train", *TINY, "--epochs", "12", "--run-dir", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-m", "svd_numpy", *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("epoch") for line in process.stdout), "no epoch was reported"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Traceback" not in error and "stopped by SIGINT" in error
    again = re.search(r"^or on the command line: svd-numpy (.*)$", error, re.MULTILINE)
    assert again is not None and "--resume" in again[1]
    before = read_log(folder / "metrics.jsonl")
    assert 1 <= len(before) < 14 and not (folder / "result.json").exists()

    finished = command(*again[1].split())
    assert finished.returncode == 0, finished.stderr
    after = read_log(folder / "metrics.jsonl")
    total = json.loads((folder / "result.json").read_text())["epochs"]
    assert [record["epoch"] for record in after] == list(range(1, total + 1))
    assert after[: len(before)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_status_tells_the_signal(
    number: int,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(**_: Any) -> None:
        raise TrainingInterrupted(number, tmp_path)

    monkeypatch.setattr(mnist, "train_mnist", stopped)
    assert cli.main(["train", *TINY, "--run-dir", str(tmp_path)]) == code
    assert f"svd-numpy train --dataset digits --batch-size 500 --backend numpy --run-dir {tmp_path} --resume" in (
        capsys.readouterr().err
    )


# ------------------------------------------------------------ reading runs


def test_evaluate_agrees_with_the_result(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((run_dir / "result.json").read_text())
    for path in (run_dir, run_dir / "model.safetensors"):
        assert cli.main(["evaluate", str(path)]) == 0
        title, _, row = capsys.readouterr().out.splitlines()
        assert "360 test examples of digits" in title
        threshold, error, nll, kept, total, compression = row.replace(",", "").split()
        assert float(threshold) == 3 and int(total) == 266_200
        assert float(error) == pytest.approx(100 * result["test_error"], abs=0.006)
        assert float(nll) == pytest.approx(result["test_nll"], abs=1e-4)
        assert float(compression[:-1]) == pytest.approx(result["compression"], abs=0.06)
        assert int(kept) == round(266_200 / result["compression"])


def test_evaluate_refuses_what_is_not_a_classification(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = svd.VariationalDense(784, 1)
    svd.Sequential(layer, likelihood="gaussian").save(tmp_path / "numbers.safetensors")
    for path, dataset in ((tmp_path / "numbers.safetensors", "digits"), (run_dir, "diabetes")):
        assert cli.main(["evaluate", str(path), "--dataset", dataset]) == 2
        captured = capsys.readouterr()
        assert "expected a classifier" in captured.err and captured.out == ""


def test_evaluate_at_several_thresholds(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run_dir), "--dataset", "digits", "--threshold", "-40", "3", "40"]) == 0
    rows = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [float(row[0]) for row in rows] == [-40, 3, 40]
    kept = [int(row[3]) for row in rows]
    assert kept[0] == 0 and kept == sorted(kept)
    assert float(rows[0][1]) > 80  # a network without weights guesses


def test_uncertainty_draws_networks_and_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = svd.VariationalDense(784, 20), svd.ReLU(), svd.VariationalDense(20, 10)
    svd.Sequential(*layers).save(tmp_path / "model.safetensors")
    (tmp_path / "result.json").write_text('{"dataset": "digits, random labels"}')
    assert cli.main(["uncertainty", str(tmp_path), "--outside", "digits", "--samples", "3"]) == 0
    out = capsys.readouterr().out
    assert "Uncertainty on digits, 3 networks drawn" in out and "foreign images: digits" in out
    assert (tmp_path / "uncertainty.txt").read_text() in out
    assert {path.suffix for path in tmp_path.glob("uncertainty.*")} == {".json", ".txt", ".png"}


def test_uncertainty_refuses_a_fine_tuned_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["uncertainty", str(run_dir), "--outside", "digits"]) == 2
    assert "network without noise" in capsys.readouterr().err


def test_report_reads_the_run(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    assert cli.main(["report", str(copy), "--last", "2"]) == 0
    out = capsys.readouterr().out
    assert (copy / "result.txt").read_text() in out
    epochs = re.findall(r"^ +(\d+) +(variational|finetune)", out, re.MULTILINE)
    assert epochs == [("2", "variational"), ("3", "finetune")]
    names = {path.name for path in (copy / "figures").iterdir()}
    expected = "training_curves log_alpha receptive_fields pixel_importance live_units filters weight_matrix"
    assert names == {f"{name}.png" for name in expected.split()}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (copy / "figures").iterdir())


def test_report_of_an_unfinished_run(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run_dir / "metrics.jsonl", tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "not finished" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["training_curves.png"]


def test_pack_writes_the_smallest_file(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = {}
    for tolerance in ("0", "0.02"):
        out = tmp_path / f"{tolerance}.svdz"
        assert cli.main(["pack", str(run_dir), "--out", str(out), "--tolerance", tolerance]) == 0
        said = capsys.readouterr().out
        assert "as packed" in said and f"({out.stat().st_size:,} bytes)" in said
        assert ("in few bits" in said) == (tolerance != "0")
        written[tolerance] = out
    x = svd.load("digits").x_test
    whole = svd.compress(svd.Sequential.load(run_dir / "model.safetensors"))
    np.testing.assert_array_equal(svd.load_packed(written["0"]).predict(x), whole.predict(x))
    assert written["0.02"].stat().st_size < written["0"].stat().st_size / 2
    assert cli.main(["pack", str(run_dir), "--tolerance", "2"]) == 2
    assert "tolerance: got 2" in capsys.readouterr().err


def test_export_c_writes_a_network_that_make_tests(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for numbers in ("integers", "floats"):
        folder = tmp_path / numbers / "digits"
        assert cli.main(["export-c", str(run_dir), "--folder", str(folder), "--numbers", numbers]) == 0
        written = {"digits.c", "digits.h", "main.c", "Makefile", "README.md", "MODEL_CARD.md"}
        assert {path.name for path in folder.iterdir()} == written
        out = capsys.readouterr().out
        assert "in floats" in out and ("in whole numbers" in out) == (numbers == "integers")
    assert cli.main(["export-c", str(run_dir), "--folder", str(tmp_path / "no-name")]) == 2
    assert "expected a letter" in capsys.readouterr().err


def test_demo_writes_a_page_with_the_log_alphas_of_the_run(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run was fine-tuned, so the log alphas of its network say nothing; and so short that all its weights live."""
    out = tmp_path / "page.html"
    assert cli.main(["demo", str(run_dir), "--out", str(out)]) == 2
    assert "fewer weights" in capsys.readouterr().err
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    model, log_alphas = svd.Sequential.load(folder / "model.safetensors"), load_log_alphas(folder / "log_alpha.npz")[0]
    for name, alphas in log_alphas.items():
        model.parameters[f"{name}.theta"][alphas > np.quantile(alphas.astype(float), 0.02)] = 0
    model.save(folder / "model.safetensors")
    assert cli.main(["demo", str(folder)]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    page = (folder / "demo.html").read_text(encoding="utf-8")
    found = re.search(r'type="application/json">(.*?)</script>', page)
    assert found is not None
    described = json.loads(found[1])
    threshold = get_recipe("lenet-300-100", "default").config.finetune_threshold
    assert described["start"] == described["most"] == math.ceil(8 * threshold)
    assert described["total"] == 266_200 and 4000 < described["layers"][0]["count"] < 5000
    assert cli.main(["demo", str(folder), "--dataset", "diabetes"]) == 2


def test_animate_draws_a_gif(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run_dir / "frames.npz", tmp_path)
    assert cli.main(["animate", str(tmp_path)]) == 0
    assert (tmp_path / "sparsity.gif").read_bytes().startswith(b"GIF8")
    assert "sparsity.gif" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "subcommand"),
    [
        ("model.safetensors", "evaluate"),
        ("result.json", "evaluate"),
        ("frames.npz", "animate"),
        ("metrics.jsonl", "report"),
        ("log_alpha.npz", "report"),
    ],
)
def test_damaged_files_are_reported(
    name: str, subcommand: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(b"?" + whole[: len(whole) // 2])
    assert cli.main([subcommand, str(copy)]) == 2
    assert name in capsys.readouterr().err


def test_a_log_that_lacks_a_column_is_reported(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run_dir / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text.replace('"nll"', '"null"'))
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "metrics.jsonl line 1: unknown entry 'null'" in capsys.readouterr().err
