"""The subcommands gradcheck, data, bench and doctor."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cli_tools import ROOT, plain_backend  # noqa: F401 - a fixture

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


def test_data_status_lists_every_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_doctor_notices_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
