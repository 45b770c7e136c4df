"""The subcommands gradcheck, data, bench and doctor."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cli_tools import ROOT, plain_backend  # noqa: F401 - a fixture
from data_tools import RAW_NAMES, empty_cache, make_files, store, tiny_sets, tree  # noqa: F401 - fixtures
from processes import environment
from small_runs import make_net

from svd_numpy import data
from svd_numpy.cli import bench, doctor
from svd_numpy.cli import main as cli


def test_gradcheck_passes_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        "svd_numpy.kernels.available_backends", lambda: {"numpy": "", "numba": "left out", "cuda": "left out"}
    )
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
        arguments[7][...] *= 1.01  # d_sigma2

    monkeypatch.setattr("svd_numpy.kernels.available_backends", lambda: {"numpy": ""})
    monkeypatch.setattr(ReferenceBackend, "lrt_backward", wrong)
    assert cli.main(["gradcheck"]) == 1
    assert "WRONG: log_uniform on numpy" in capsys.readouterr().out


def test_data_status_lists_every_set(
    tmp_path: Path,
    cache: Path,
    tiny: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = store(tmp_path / "named" / "mnist", tiny)
    monkeypatch.setenv("SVD_NUMPY_DATA", str(named.parent))
    assert cli.main(["data", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name for name in data.NAMES if name not in ("auto", "idx")]
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert rows["mnist"] == ["ok", f"{named} (SVD_NUMPY_DATA)"]
    assert rows["digits"] == ["ok", "scikit-learn (embedded)"]
    assert rows["boston"][0] == "missing" and str(named.parent) in rows["boston"][1] and str(cache) in rows["boston"][1]

    files = make_files(2)
    name = next(iter(files))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    damaged = store(cache / "fashion-mnist", files)
    assert cli.main(["data", "status"]) == 1
    out = capsys.readouterr().out
    assert f"fashion-mnist    DAMAGED  {damaged} (the cache)" in out and "SHA-256" in out and "Delete it" in out


def test_data_import_fills_the_cache_and_fetch_finds_it_there(
    tmp_path: Path, cache: Path, tiny: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "fetch", "mnist"]) == 2  # no network
    error = capsys.readouterr().err
    assert error.startswith("svd-numpy: MNIST was not found") and "What to do: put the files in" in error
    given = store(tmp_path / "a" / "folder", tiny)
    before = tree(given)
    assert cli.main(["data", "import", str(given)]) == 0
    assert capsys.readouterr().out == "now in the cache: mnist\n"
    assert tree(given) == before == tree(cache / "mnist")
    assert cli.main(["data", "fetch", "mnist"]) == 0
    assert capsys.readouterr().out == f"mnist is in {cache / 'mnist'}\n"


def test_bench_passes_its_options_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "step.py"
    script.write_text("import sys; print(*sys.argv[1:]); sys.exit(5)")
    monkeypatch.setattr(bench, "STEP_SCRIPT", script)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cli.main(["bench", "--batches", "100", "--threads", "1", "2", "--out", "~/here"]) == 5
    assert capfd.readouterr().out == f"--batches 100 --threads 1 2 --rounds 7 --out {tmp_path / 'here'}\n"


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


def test_doctor_finds_this_installation_sound(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["doctor"])
    out = capsys.readouterr().out
    assert status == 0 and "WRONG" not in out and out.endswith("all is well\n"), out
    for name in ("python", "numpy", "numba", "llvmlite", "scipy", "processor", "cores", "threading layer"):
        assert re.search(rf"^ok +{name} ", out, re.MULTILINE), name
    assert "self-check numba" in out and "kernel cache" in out and re.search(r"data mnist +not found", out)


def diagnosis(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the doctor; return the lines that say what is wrong."""
    assert cli.main(["doctor"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert last == f"found wrong: {len(wrong)}"
    return wrong


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_doctor_notices_wrong_numbers(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from svd_numpy.kernels.cpu.backend import NumbaBackend

    right = NumbaBackend.lrt_backward

    def wrong(self: Any, *arguments: Any) -> None:
        right(self, *arguments)
        arguments[7][...] *= factor  # d_sigma2

    monkeypatch.setattr(NumbaBackend, "lrt_backward", wrong)
    (line,) = diagnosis(capsys)
    assert line.startswith("WRONG self-check numba") and "set NUMBA_CACHE_DIR to an empty folder" in line
    assert "overflowed" in line if math.isnan(factor) else ".log_sigma2" in line


def test_doctor_says_what_to_do(
    cache: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/cache")

    folder = store(cache / "mnist", tiny)
    (folder / f"{RAW_NAMES[0]}.gz").write_bytes(b"not what it was")
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "abacus")
    expected = {
        "no-such-package": "pip install no-such-package",
        "backends": "unset the environment variable SVD_NUMPY_BACKEND",
        "kernel cache": "set NUMBA_CACHE_DIR to a folder",
        "data mnist": "Fetch or copy the file again",
    }
    for line, (name, remedy) in zip(diagnosis(capsys), expected.items(), strict=True):
        assert line.startswith(f"WRONG {name}") and remedy in line
    monkeypatch.setenv("SVD_NUMPY_DATA", "/no/such/folder")
    assert "name one that exists" in diagnosis(capsys)[-1]


@pytest.mark.parametrize(
    ("variable", "value", "remedy"), [("NUMBA_DISABLE_JIT", "1", "unset it"), ("NUMBA_NUM_THREADS", "0", "1 or more")]
)
def test_doctor_says_what_keeps_numba_from_working(
    variable: str, value: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other commands name the variable, too, and "auto" computes without Numba."""
    make_net().save(tmp_path / "model.safetensors")
    variables = environment(**{variable: value})
    doctor_says = subprocess.run(
        [sys.executable, "-m", "svd_numpy", "doctor"], env=variables, cwd=tmp_path, text=True, capture_output=True
    )
    (line,) = [line for line in doctor_says.stdout.splitlines() if line.startswith("WRONG")]
    assert line.startswith("WRONG backend numba") and variable in line and remedy in line
    code = """
import numpy as np, svd_numpy as svd
model = svd.Sequential.load("model.safetensors")
print(model.backend.name, svd.compress(model).backend.name, model.predict(np.ones((1, *model.in_shape), "f4")).shape)
for load in (svd.Sequential.load, svd.SparseModel.load):
    try:
        load("model.safetensors", backend="numba")
    except svd.SvdError as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=tmp_path, text=True, capture_output=True)
    first, *errors = done.stdout.splitlines()
    assert first.startswith("numpy numpy (1, "), done.stderr
    assert len(errors) == 2 and all(error.startswith("SvdValueError backend 'numba'") for error in errors)
    assert all(variable in error and remedy in error for error in errors)


def test_doctor_says_that_kernels_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from numba.core.caching import NullCache

    from svd_numpy.kernels.cpu import layers

    monkeypatch.setattr(layers.lrt_forward, "_cache", NullCache())
    (line,) = diagnosis(capsys)
    assert line.startswith("WRONG kernel cache") and "set NUMBA_CACHE_DIR to a folder" in line


def test_doctor_does_not_faint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("several\nlines")

    monkeypatch.setattr("svd_numpy.network.model.Sequential.loss_and_grads", broken)
    monkeypatch.setattr("svd_numpy.data.status", broken)
    wrong = diagnosis(capsys)
    for name in ("self-check numpy", "self-check numba", "data files"):
        (line,) = [line for line in wrong if line.startswith(f"WRONG {name}")]
        assert "RuntimeError: several lines; " in line
