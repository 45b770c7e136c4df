"""The command line: every subcommand, its errors, and a run that is interrupted and goes on."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from svd_numpy import bench, cli, doctor
from svd_numpy.console import TrainingInterrupted
from svd_numpy.experiments import mnist
from svd_numpy.runlog import read_log

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--dataset", "digits", "--backend", "numpy", "--batch-size", "500"]  # no compiler, 3 steps an epoch


@pytest.fixture(autouse=True)
def plain_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here needs no compiled kernels, unless it says so."""
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "numpy")


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


def environment(**more: str) -> dict[str, str]:
    """The environment of a child process that finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **more}


def command(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "svd_numpy", *words],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


# ------------------------------------------------------------ parsing


def test_help_first_says_what_svd_means() -> None:
    done = command("--help")
    assert done.returncode == 0
    first = done.stdout.split("\n\n")[1].split(". ")[0]
    assert "Sparse Variational Dropout" in first and "never the singular value decomposition" in first
    for name in cli.COMMANDS:
        assert re.search(rf"\b{name}\b", done.stdout)


@pytest.mark.parametrize("name", [*cli.COMMANDS, "data status", "data fetch", "data import"])
def test_every_subcommand_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.parse([*name.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: svd-numpy {name}" in text and len(text) > 200


@pytest.mark.parametrize(
    "words", [[], ["trian"], ["train", "--epoch", "3"], ["train", "--epochs", "x"], ["evaluate"], ["data"]]
)
def test_words_that_make_no_sense_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from svd_numpy.cli import parse; parse(['train', '--seed', '3']);"
        "heavy = {'numba', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_options_of_train_are_the_parameters_of_train_mnist() -> None:
    parameters = dict(inspect.signature(mnist.train_mnist).parameters)
    del parameters["callbacks"]  # functions cannot be typed on a command line
    assert [field.name for field in fields(cli.Train)] == list(parameters)
    assert {field.name: field.default for field in fields(cli.Train)} == {
        name: parameter.default for name, parameter in parameters.items()
    }


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_option_is_explained(name: str) -> None:
    kind: Any = cli.COMMANDS[name]
    explained = set(re.findall(r"^ {4}(\w+) : ", kind.__doc__, re.MULTILINE))
    assert explained == {field.name for field in fields(kind)} - {"command"}


def test_a_command_line_is_written_as_it_is_read() -> None:
    train = cli.Train(seed=3, data_dir=Path("a b"), run_dir=Path("r"), resume=True, progress=False, epochs=2)
    words = train.command_line()
    assert words == "svd-numpy train --epochs 2 --seed 3 --data-dir 'a b' --run-dir r --resume --no-progress"
    assert cli.parse(shlex.split(words)[1:]) == train


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
    monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
    monkeypatch.delenv("SVD_NUMPY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("svd_numpy.data.sources.cache_dir", lambda: tmp_path)
    assert cli.Train(recipe="paper").default_run_dir() == Path("runs/lenet-300-100-digits-paper-seed0")


def test_train_writes_into_runs_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}

    def stop(**options: Any) -> None:
        seen.update(options)
        raise ValueError("seen enough")

    monkeypatch.setattr(mnist, "train_mnist", stop)
    assert cli.main(["train", *TINY, "--seed", "7", "--eval-every", "0"]) == 2
    assert seen["run_dir"] == Path("runs/lenet-300-100-digits-default-seed7")
    assert seen["seed"] == 7 and seen["eval_every"] == 0 and seen["batch_size"] == 500
    assert list(tmp_path.iterdir()) == []


def test_train_refuses_an_existing_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    assert cli.main(["train", *TINY, "--epochs", "2", "--run-dir", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert "holds a run already" in error and "--resume" in error
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_resume_of_a_finished_run_shows_its_table(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = (run_dir / "result.txt").read_text()
    log = (run_dir / "metrics.jsonl").read_bytes()
    assert cli.main(["train", *TINY, "--epochs", "2", "--run-dir", str(run_dir), "--resume"]) == 0
    assert table in capsys.readouterr().out
    assert (run_dir / "metrics.jsonl").read_bytes() == log
    assert (run_dir / "result.txt").read_text() == table


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
    assert (
        f"svd-numpy train --batch-size 500 --backend numpy --dataset digits --run-dir {tmp_path} --resume"
        in (capsys.readouterr().err)
    )


def test_ctrl_c_outside_of_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "doctor", stopped)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "svd-numpy: stopped\n"


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--recipe", "magic"], "recipe: got 'magic', expected one of"),
        (["train", "--arch", "vgg"], "arch: got 'vgg'"),
        (["train", "--epochs", "0", "--dataset", "digits", "--run-dir", "RUN"], "epochs: got 0"),
        (["train", "--seed", "-1", "--dataset", "digits", "--run-dir", "RUN"], "seed: got -1"),
        (
            ["train", "--backend", "abacus", "--dataset", "digits", "--run-dir", "RUN"],
            "backend: got 'abacus'",
        ),
        (["train", "--dataset", "mnist", "--data-dir", "RUN", "--run-dir", "RUN"], "is not a folder"),
        (["train", "--dataset", "diabetes", "--run-dir", "RUN"], "expected images with labels"),
        (["evaluate", "RUN"], "RUN is not there"),
        (["report", "RUN"], "metrics.jsonl is not there"),
        (["animate", "RUN"], "frames.npz is not there"),
        (["data", "fetch", "imagenet"], "unknown data set 'imagenet'"),
        (["data", "import", "RUN"], "is not a folder"),
    ],
)
def test_errors_are_one_clear_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("RUN", str(tmp_path / "RUN")) for word in words]
    assert cli.main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("svd-numpy: ") and message in error and "Traceback" not in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing was made before the error


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "svd_numpy", "data", "status"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode in (0, 141) and error == ""


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["report", str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "subcommand"),
    [("model.safetensors", "evaluate"), ("frames.npz", "animate"), ("metrics.jsonl", "report")],
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


def test_evaluate_at_several_thresholds(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(run_dir), "--dataset", "digits", "--threshold", "-40", "3", "40"]) == 0
    rows = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [float(row[0]) for row in rows] == [-40, 3, 40]
    kept = [int(row[3]) for row in rows]
    assert kept[0] == 0 and kept == sorted(kept)
    assert float(rows[0][1]) > 80  # a network without weights guesses


def test_report_reads_the_run(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    assert cli.main(["report", str(copy), "--last", "2"]) == 0
    out = capsys.readouterr().out
    assert (copy / "result.txt").read_text() in out
    epochs = re.findall(r"^ +(\d+) +(variational|finetune)", out, re.MULTILINE)
    assert epochs == [("2", "variational"), ("3", "finetune")]
    names = {path.name for path in (copy / "figures").iterdir()}
    assert names == {
        f"{n}.png" for n in ("training_curves", "log_alpha", "receptive_fields", "pixel_importance")
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (copy / "figures").iterdir())


def test_report_of_an_unfinished_run(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(run_dir / "metrics.jsonl", tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "not finished" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["training_curves.png"]


def test_animate_draws_a_gif(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run_dir / "frames.npz", tmp_path)
    assert cli.main(["animate", str(tmp_path)]) == 0
    assert (tmp_path / "sparsity.gif").read_bytes().startswith(b"GIF8")
    assert "sparsity.gif" in capsys.readouterr().out


# ------------------------------------------------------------ checks, data, bench


def test_gradcheck_passes_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("svd_numpy.kernels.available_backends", lambda: {"numpy": "", "numba": "left out"})
    assert cli.main(["gradcheck"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("all gradients agree\n")
    for prior in ("log_uniform", "log_uniform_exact", "ard"):
        assert f"prior {prior}, backend numpy, float64" in out


def test_gradcheck_notices_a_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from svd_numpy.kernels.reference import ReferenceBackend

    right = ReferenceBackend.lrt_backward

    def wrong(self: Any, *arguments: Any) -> None:
        right(self, *arguments)
        arguments[8][...] *= 1.01  # d_sigma2

    monkeypatch.setattr("svd_numpy.kernels.available_backends", lambda: {"numpy": ""})
    monkeypatch.setattr(ReferenceBackend, "lrt_backward", wrong)
    assert cli.main(["gradcheck"]) == 1
    assert "WRONG: log_uniform on numpy" in capsys.readouterr().out


def test_data_status_lists_every_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"name": "mnist", "where": "/here", "verified": True, "note": ""},
        {"name": "boston", "where": "", "verified": False, "note": "nowhere"},
    ]
    monkeypatch.setattr("svd_numpy.data.status", lambda: rows)
    assert cli.main(["data", "status"]) == 0
    assert capsys.readouterr().out.split() == ["mnist", "ok", "/here", "boston", "missing", "nowhere"]
    rows.append({"name": "fashion-mnist", "where": "/there", "verified": False, "note": "wrong bytes"})
    assert cli.main(["data", "status"]) == 1
    assert "DAMAGED  /there" in capsys.readouterr().out


def test_data_fetch_and_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("svd_numpy.data.fetch", lambda name: Path("/cache") / name)
    monkeypatch.setattr("svd_numpy.data.import_folder", lambda path: ["mnist", Path(path).name])
    assert cli.main(["data", "fetch", "mnist"]) == 0
    assert cli.main(["data", "import", "a/folder"]) == 0
    assert capsys.readouterr().out == "mnist is in /cache/mnist\nnow in the cache: mnist, folder\n"


def test_bench_passes_its_options_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "step.py"
    script.write_text("import sys; print(*sys.argv[1:]); sys.exit(5)")
    monkeypatch.setattr(bench, "STEP_SCRIPT", script)
    assert cli.main(["bench", "--batches", "100", "--threads", "1", "2", "--out", "here"]) == 5
    assert capfd.readouterr().out == "--batches 100 --threads 1 2 --rounds 7 --out here\n"


def test_bench_outside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "STEP_SCRIPT", tmp_path / "step.py")
    assert cli.main(["bench"]) == 2
    assert "run this command from a checkout" in capsys.readouterr().err


def test_bench_options_are_known_to_the_script() -> None:
    text = (ROOT / "benchmarks" / "step.py").read_text()
    for field in fields(cli.Bench):
        assert f'"--{field.name}"' in text


def test_doctor_finds_this_installation_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("svd_numpy.data.status", lambda: [])  # files are the business of the tests of data
    status = cli.main(["doctor"])
    out = capsys.readouterr().out
    assert status == 0 and "WRONG" not in out, out
    for name in ("python", "numpy", "numba", "llvmlite", "scipy", "processor", "cores", "threading layer"):
        assert re.search(rf"^ok +{name} ", out, re.MULTILINE), name
    assert "self-check numba" in out and "kernel cache" in out


def test_doctor_notices_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = doctor._loss_and_grads

    def wrong(backend: str, dtype: str) -> tuple[float, dict[str, Any]]:
        loss, grads = right("numpy", dtype)
        return loss, {name: grad * (1.001 if backend == "numba" else 1) for name, grad in grads.items()}

    def broken() -> Any:
        raise RuntimeError("no such layer")

    row = {"name": "mnist", "where": "/here", "verified": False, "note": "wrong bytes"}
    monkeypatch.setattr(doctor, "_loss_and_grads", wrong)
    monkeypatch.setattr(doctor, "compiled_kernels", broken)
    broken.__name__ = "compiled_kernels"
    monkeypatch.setattr("svd_numpy.data.status", lambda: [row])
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    assert cli.main(["doctor"]) == 1
    wrong_lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    starts = ["no-such-package", "self-check numba", "compiled kernels", "data mnist"]
    assert [any(start in line for line in wrong_lines) for start in starts] == [True] * 4
    assert len(wrong_lines) == 4


def test_commands_are_frozen() -> None:
    assert replace(cli.Train(), seed=1) != cli.Train()
    with pytest.raises(AttributeError):
        cli.Train().seed = 1  # type: ignore[misc]
