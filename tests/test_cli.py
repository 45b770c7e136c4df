"""The command line: its words, its errors, its exit status."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import TINY, command, environment, plain_backend  # noqa: F401 - a fixture

import svd_numpy as svd
from svd_numpy.cli import main as cli
from svd_numpy.experiments import cifar, mnist

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
        "import sys; from svd_numpy.cli.main import parse; parse(['train', '--seed', '3']);"
        "heavy = {'numba', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("kind", "function"), [(cli.Train, mnist.train_mnist), (cli.TrainCifar, cifar.train_cifar)])
def test_options_of_train_are_the_parameters_of_the_function(kind: Any, function: Any) -> None:
    parameters = dict(inspect.signature(function).parameters)
    del parameters["callbacks"]  # functions cannot be typed on a command line
    del parameters["changes"]  # `sweep` varies numbers of recipes
    parameters.pop("seeds", None)  # several runs in one process are Python's
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    defaults["ranks"] = False  # on a command line, whether to join them
    assert {field.name: field.default for field in fields(kind)} == defaults


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_option_is_explained(name: str) -> None:
    kind: Any = cli.COMMANDS[name]
    docs = "\n".join(inspect.cleandoc(base.__doc__ or "") for base in kind.__mro__[:-1])
    explained = set(re.findall(r"^(\w+) : ", docs, re.MULTILINE))
    assert explained == {field.name for field in fields(kind)} - {"command"}


def test_a_command_line_is_written_as_it_is_read() -> None:
    train = cli.Train(seed=3, data_dir=Path("a b"), run_dir=Path("r"), resume=True, progress=False, epochs=2)
    words = train.command_line()
    assert words == "svd-numpy train --epochs 2 --seed 3 --data-dir 'a b' --run-dir r --resume --no-progress"
    assert cli.parse(shlex.split(words)[1:]) == train
    cifar_run = cli.TrainCifar(dataset="cifar100", width=0.25, pretrain_epochs=0, resume=True)
    words = cifar_run.command_line()
    assert words == "svd-numpy train-cifar --dataset cifar100 --resume --width 0.25 --pretrain-epochs 0"
    assert cli.parse(shlex.split(words)[1:]) == cifar_run


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
        (["train", "--arch", "vgg-like", "--dataset", "digits"], "arch: got 'vgg-like'"),
        (["train-cifar", "--dataset", "mnist", "--run-dir", "RUN"], "dataset: got 'mnist'"),
        (["train-cifar", "--arch", "lenet-5"], "arch: got 'lenet-5'"),
        (["train-cifar", "--width", "0", "--run-dir", "RUN"], "width: got 0.0"),
        (["evaluate", "RUN"], "RUN is not there"),
        (["uncertainty", "RUN"], "model.safetensors is not there"),
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


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "svd_numpy", "data", "status"],
        env=environment(PYTHONUNBUFFERED=unbuffered, SVD_NUMPY_DATA=str(tmp_path)),  # no file to verify
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode in (0, 141) and error == ""


@pytest.mark.parametrize(
    "fault",
    [ValueError("shapes"), TypeError("None"), KeyError("test"), OSError("bad handle"), RuntimeError()],
    ids=repr,
)
def test_a_fault_of_ours_is_not_blamed_on_the_user(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr("svd_numpy.data.status", broken)
    assert cli.main(["data", "status"]) == 70
    error = capsys.readouterr().err
    *trace, last = error.splitlines()
    assert trace[0].startswith("Traceback") and any("in broken" in line for line in trace)
    assert f"svd-numpy {svd.__version__}: this is a fault in svd-numpy" in last and "report it" in last


def test_a_file_that_the_system_refuses_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    (tmp_path / "run").write_bytes(b"a file, where a folder is wanted")
    words = ["train", *TINY, "--epochs", "1", "--run-dir", str(tmp_path / "run" / "below")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "run" in error and "Not a directory" in error and error.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_said_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "svd_numpy", "data", "status"],
            env=environment(), stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "svd-numpy: could not write: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_run_whose_results_cannot_be_printed_is_kept_and_says_so(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "svd_numpy", "train", *TINY, "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 1 and said.startswith(f"svd-numpy: the run is finished and kept in {tmp_path / 'run'}")
    assert "No space left on device" in said and said.endswith(f"svd-numpy report {tmp_path / 'run'}")
    assert {"model.safetensors", "result.json", "result.txt"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_every_file_name_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "R\u00e9sum\u00e9.safetensors"
    svd.Sequential(svd.Dense(784, 10)).save(path)
    done = command("evaluate", str(path), "--dataset", "digits", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "R\\xe9sum\\xe9.safetensors on the 360 test" in done.stdout, done.stderr


def test_no_stdout_is_no_error() -> None:
    words = f"exec {shlex.quote(sys.executable)} -m svd_numpy data status >&-"
    done = subprocess.run(["sh", "-c", words], env=environment(), stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_too_little_memory_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greedy() -> Any:
        return np.empty(2**60, np.uint8)

    monkeypatch.setattr("svd_numpy.data.status", greedy)
    assert cli.main(["data", "status"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("svd-numpy: out of memory (Unable to allocate") and error.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_DEBUG", "1")
    with pytest.raises(svd.SvdValueError, match=r"metrics\.jsonl is not there"):
        cli.main(["report", str(tmp_path)])


def test_ctrl_c_outside_of_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("svd_numpy.data.status", stopped)
    assert cli.main(["data", "status"]) == 130
    assert capsys.readouterr().err == "svd-numpy: stopped\n"


def test_commands_are_frozen() -> None:
    assert replace(cli.Train(), seed=1) != cli.Train()
    with pytest.raises(AttributeError):
        cli.Train().seed = 1  # type: ignore[misc]
