"""The CUDA backend without a GPU: kernels in Numba's simulator, kernels compiled for devices that are not here."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

from svd_numpy import kernels
from svd_numpy.kernels.cuda import detect

HERE = Path(__file__).resolve().parent
needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="numba is not installed")
needs_compiler = pytest.mark.skipif(
    not (importlib.util.find_spec("numba_cuda") and importlib.util.find_spec("cuda")),
    reason="no compiler for CUDA is installed: pip install 'svd-numpy[cuda]'",
)
# By the contract these add or divide in float64, a few numbers a channel or a part of a sum each.
FLOAT64 = {
    "average", "blend", "channel_sums", "fold_exact", "fold_to_exact", "gradients", "kl_parts", "moments", "scales",
    "shorten", "square_parts",
}  # fmt: skip
MOST_REGISTERS = 128  # with which two blocks of 256 threads share a multiprocessor


def run_python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment(**more), cwd=HERE, capture_output=True, text=True
    )


@needs_numba
@pytest.mark.parametrize("tests", ["cuda_backend.py", "cuda_runs.py"])
def test_in_the_simulator(tests: str) -> None:
    """Numba decides at its import whether CUDA is simulated, so these tests have processes of their own."""
    done = run_python("-m", "pytest", tests, "-q", NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


COMPILE = """
import importlib, pathlib, sys, types
import numba.cuda.dispatcher
from numba import cuda, types as numba_types
from svd_numpy.kernels.cuda import device
for name in ("philox", "product", "finish", "elementwise", "images", "losses", "norm", "sums", "sweep", "recurrent",
             "clip"):
    importlib.import_module("svd_numpy.kernels.cuda." + name)
target = tuple(int(part) for part in sys.argv[1].split("."))
# Helpers are compiled for the device at hand; here that is the one asked for.
numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=target)
scalars = {
    "f": "float32", "d": "float64", "u": "uint32", "i": "int32", "L": "int64", "X": "uint8", "T": "uint32",
    "S": "float32", "B": "uint8",
}
def numba_type(letter, own):
    if letter in device.TUPLES:
        number, length = device.TUPLES[letter]
        return numba_types.UniTuple(getattr(numba_types, number.__name__), length)
    scalar = getattr(numba_types, scalars.get(letter) or scalars[letter.lower()])
    return scalar[:, ::1] if own else scalar[::1] if letter.isupper() else scalar
for name, kernel in device.KERNELS.items():
    arguments = tuple(numba_type(letter, i in kernel.own) for i, letter in enumerate(kernel.signature))
    ptx, _ = cuda.compile_ptx(kernel.entry, arguments, cc=target)
    pathlib.Path(sys.argv[2], name + ".ptx").write_text(ptx)
"""


@needs_compiler
@pytest.mark.parametrize(
    "target", ["9.0", pytest.param("7.5", marks=pytest.mark.slow), pytest.param("8.0", marks=pytest.mark.slow)]
)
def test_every_kernel_compiles_to_what_it_should(target: str, tmp_path: Path) -> None:
    done = run_python("-c", COMPILE, target, str(tmp_path), NUMBA_ENABLE_CUDASIM="0")
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted(tmp_path.glob("*.ptx"))
    assert len(files) > 40
    for file in files:
        ptx = file.read_text()
        assert (".f64" in ptx) == (file.stem in FLOAT64), f"{file.stem}: float64"
        assert not re.search(r"\bcall\b", ptx), f"{file.stem} calls a function, which costs registers"
        if re.match("(forward|inputs|weights)_", file.stem):
            assert "ld.shared.v4" in ptx, f"{file.stem}: narrow loads"
    if shutil.which("ptxas") is None:
        return  # the assembler has the last word on registers; without it the rest still counts
    for file in files:
        report = assembled(file, target)
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report, f"{file.stem}: {report}"
        registers = re.search(r"Used (\d+) registers", report)
        assert registers and int(registers[1]) <= MOST_REGISTERS, f"{file.stem}: {report}"


def assembled(file: Path, target: str) -> str:
    """Assemble one file with `ptxas`; where that is older than the compiler, as PTX of the version it knows."""
    limits = f"-arch=sm_{target.replace('.', '')}", f"-maxrregcount={MOST_REGISTERS}"
    command = ["ptxas", *limits, "-v", str(file), "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True)
    if older := re.search(r"Unsupported .version [\d.]+; current version is '([\d.]+)'", done.stderr):
        file.write_text(re.sub(r"\.version [\d.]+", f".version {older[1]}", file.read_text()))
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@needs_numba
def test_who_has_no_device_never_imports_cuda() -> None:
    code = (
        "import sys, svd_numpy as svd;"
        "model = svd.Sequential(svd.VariationalDense(3, 2), backend='numba'); model.predict([[1.0, 2.0, 3.0]]);"
        "svd.Sequential(svd.VariationalDense(3, 2)) if sys.argv[1] == 'auto' else None;"
        "print(sorted(name for name in sys.modules if name.startswith(('numba.cuda', 'numba_cuda'))))"
    )
    auto = "auto" if detect.why_not() else "device"
    done = run_python("-c", code, auto, SVD_NUMPY_BACKEND="auto", NUMBA_ENABLE_CUDASIM="0")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@needs_compiler
def test_importing_it_leaves_numpy_and_the_environment_as_they_were() -> None:
    code = (
        "import os, numpy as np; np.__dict__.pop('row_stack', None); before = dict(os.environ);"
        "from svd_numpy.kernels.cuda import device; from numba.cuda.np import arrayobj;"
        "print(hasattr(np, 'row_stack'), dict(os.environ) == before)"
    )
    done = run_python("-c", code, NUMBA_ENABLE_CUDASIM="0")
    assert done.stdout.strip() == "False True", done.stdout + done.stderr


def let_cuda_say(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Let the backend be usable, or not, for this reason."""
    entry = kernels._BACKENDS["cuda"]._replace(why_not=lambda: reason)
    monkeypatch.setitem(kernels._BACKENDS, "cuda", entry)


def test_a_missing_device_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    let_cuda_say(monkeypatch, "no driver was found")
    assert kernels.available_backends()["cuda"] == "no driver was found"
    assert kernels.resolve_backend("auto") != "cuda"
    with pytest.raises(ValueError, match=r"'cuda' cannot be used: no driver was found; usable: \['numpy'"):
        kernels.get_backend("cuda")


def test_auto_leaves_the_device_alone_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVD_NUMPY_BACKEND", raising=False)
    let_cuda_say(monkeypatch, "")
    assert kernels.resolve_backend("auto") != "cuda"
    assert kernels.resolve_backend("cuda") == "cuda"


@pytest.mark.parametrize(
    ("driver", "packages", "words"),
    [
        ("no driver", {"numba", "numba_cuda"}, "no driver"),
        ("", {"numba"}, r"svd-numpy\[cuda\]"),
        ("", {"numba_cuda"}, "pip install numba"),
        ("", {"numba", "numba_cuda"}, "^$"),
    ],
)
def test_what_is_needed_is_named(driver: str, packages: set[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
    monkeypatch.setattr(detect, "_driver", lambda: driver)
    monkeypatch.setattr(detect.importlib.util, "find_spec", lambda name: name in packages or None)
    assert re.search(words, detect.why_not())


def test_the_one_import_of_numba_cuda() -> None:
    sources = (HERE.parent / "svd_numpy").rglob("*.py")
    importing = [
        path.name for path in sources if re.search(r"from numba import .*\bcuda\b|import numba\.cuda", path.read_text())
    ]
    assert importing == ["device.py"]
