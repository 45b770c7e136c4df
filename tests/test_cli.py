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

import pytest
from cli_tools import command, environment, plain_backend  # noqa: F401 - a fixture

from svd_numpy.cli import doctor
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
    parameters.pop("seeds", None)  # several runs in one process are Python's
    assert [field.name for field in fields(kind)] == list(parameters)
    assert {field.name: field.default for field in fields(kind)} == {
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
    cifar_run = cli.TrainCifar("cifar100", k=0.25, pretrain_epochs=0, resume=True)
    words = cifar_run.command_line()
    assert words == "svd-numpy train-cifar --dataset cifar100 --k 0.25 --pretrain-epochs 0 --resume"
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
        (["train-cifar", "--k", "0", "--run-dir", "RUN"], "k: got 0.0"),
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


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["report", str(tmp_path)])


def test_ctrl_c_outside_of_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "doctor", stopped)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "svd-numpy: stopped\n"


def test_commands_are_frozen() -> None:
    assert replace(cli.Train(), seed=1) != cli.Train()
    with pytest.raises(AttributeError):
        cli.Train().seed = 1  # type: ignore[misc]
