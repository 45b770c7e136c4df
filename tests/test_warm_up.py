"""`svd-numpy warm-up`: kernels are compiled ahead, all that training and prediction need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from processes import environment

from svd_numpy.cli import doctor, warm_up
from svd_numpy.cli import main as cli
from svd_numpy.kernels import available_backends

pytestmark = pytest.mark.skipif(bool(available_backends()["numba"]), reason="numba cannot be used here")

# Prints how many versions of kernels the second half compiled or loaded that the first half had not.
COVERED = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
import svd_numpy as svd
from svd_numpy.cli.warm_up import WarmUp

def versions():
    return {
        (name, key, signature)
        for name, module in list(sys.modules.items()) if name.startswith("svd_numpy.")
        for key, value in vars(module).items() if isinstance(value, Dispatcher)
        for signature in value.signatures
    }

assert WarmUp().run() == 0
before = versions()
for options in ({}, {"recipe": "paper"}, {"kind": "dropout"}, {"arch": "lenet-5"}, {"method": "sbp"}):
    options = {"dataset": "digits", "epochs": 1, "batch_size": 300, "backend": "numba", "progress": False, **options}
    result = svd.train_mnist(**options)
    small = svd.compress(result.model)
    for rows in (result.data.x_test, result.data.x_test[:1]):
        small.predict(rows)
svd.SparseVDRegressor(hidden_sizes=8, epochs=2).fit(np.eye(30, 5), np.arange(30.0))
assert len(before) > 20
print("more:", sorted(versions() - before, key=str))
"""


def test_it_says_what_it_does_and_where_kernels_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warm_up, "stages", lambda: [("a small network", warm_up.use_table)])
    folder = doctor.kernel_cache_folder()
    assert cli.main(["warm-up"]) == 0
    said = capsys.readouterr().out
    assert "s  a small network\n" in said and f"are kept in {folder}\n" in said
    monkeypatch.setattr(doctor, "kernel_cache_folder", lambda: None)
    assert cli.main(["warm-up"]) == 1
    assert "cannot be kept: set NUMBA_CACHE_DIR" in capsys.readouterr().out


def test_without_numba_it_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("svd_numpy.kernels.available_backends", lambda: {"numba": "it is not installed"})
    assert cli.main(["warm-up"]) == 2
    assert "nothing to compile" in capsys.readouterr().err


@pytest.mark.slow
def test_afterwards_nothing_is_compiled() -> None:
    command = [sys.executable, "-c", COVERED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0 and "more: []\n" in done.stdout, done.stdout + done.stderr
