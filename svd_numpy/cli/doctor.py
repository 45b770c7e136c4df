"""Checks of an installation: what it has, and whether backends and gradients are right."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "matplotlib", "scikit-learn", "safetensors", "tyro")
FEATURES = ("sse4.2", "avx", "avx2", "fma", "avx512f", "neon", "sve")
TOLERANCE = 1e-4  # float32 against float64, relative to the largest number of an array


class Finding(NamedTuple):
    """One line of the doctor's report."""

    name: str
    text: str
    ok: bool = True


def versions() -> Iterator[Finding]:
    """Look up the versions of Python, of this package and of those it needs."""
    from svd_numpy import __version__

    yield Finding("svd_numpy", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Finding(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, f"not installed: pip install {package}", ok=False)


def processor() -> Iterator[Finding]:
    """Name the processor, its vector instructions, and the cores that this process may use."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    vectors = " ".join(name for name in FEATURES if features.get(name)) or "none known"
    yield Finding("processor", f"{cpu_name()} ({llvm.get_host_cpu_name()}); vector instructions: {vectors}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", str(cores))


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def backends() -> Iterator[Finding]:
    """Say which backends can be used, why others cannot, and which one "auto" means."""
    from svd_numpy.kernels import available_backends, resolve_backend

    usable = available_backends()
    for name, reason in usable.items():
        yield Finding(f"backend {name}", reason or "usable", ok=not reason or name == "cuda")  # no GPU is no fault
    yield Finding("backend auto", f"means {resolve_backend('auto')}")
    for name in [name for name, reason in usable.items() if not reason]:
        yield from guarded(f"self-check {name}", lambda name=name: self_check(name))  # type: ignore[misc]


def self_check(backend: str) -> Iterator[Finding]:
    """Compare loss and gradients of a small network with the plain backend in float64."""
    loss, grads = _loss_and_grads(backend, "float32")
    exact_loss, exact_grads = _loss_and_grads("numpy", "float64")
    errors = {"loss": abs(loss - exact_loss) / abs(exact_loss)}
    for name, exact in exact_grads.items():
        errors[name] = float(np.max(np.abs(grads[name] - exact)) / np.max(np.abs(exact)))
    worst = max(errors, key=lambda name: errors[name])
    text = f"loss and gradients within {errors[worst]:.1e} of float64 (largest: {worst}; allowed {TOLERANCE:g})"
    yield Finding(f"self-check {backend}", text, ok=errors[worst] <= TOLERANCE)


def _loss_and_grads(backend: str, dtype: str) -> tuple[float, dict[str, Any]]:
    from svd_numpy.network.layers import ReLU, VariationalDense
    from svd_numpy.network.model import Sequential

    rng = np.random.default_rng(0)
    layers = VariationalDense(20, 17, log_sigma2=-4.0), ReLU(), VariationalDense(17, 5, log_sigma2=-4.0)
    model = Sequential(*layers, backend=backend, dtype=dtype, seed=1)
    x, y = rng.standard_normal((32, 20)).astype(np.float32), rng.integers(0, 5, 32)
    return model.loss_and_grads(x, y, n_train=100)


def cuda_device() -> Iterator[Finding]:
    """Name the CUDA device and what compiles for it, where that backend can be used."""
    from svd_numpy.kernels import available_backends

    if not available_backends()["cuda"]:
        from svd_numpy.kernels.cuda.device import description

        yield Finding("cuda device", description())


def compiled_kernels() -> Iterator[Finding]:
    """Name Numba's threading layer, and check that compiled kernels can be kept on disk."""
    import numba

    from svd_numpy.kernels.cpu import layers

    # Known only after a parallel kernel has run, which the self-check saw to.
    yield Finding("threading layer", f"{numba.threading_layer()}, {numba.get_num_threads()} threads")
    lrt_forward: Any = layers.lrt_forward  # a Numba dispatcher
    folder = lrt_forward.stats.cache_path
    with tempfile.TemporaryFile(dir=folder):
        yield Finding("kernel cache", f"{folder} (writable)")


def data_files() -> Iterator[Finding]:
    """Say which data sets are found where; a missing one is no fault, a damaged one is."""
    from svd_numpy.data import status

    for row in status():
        damaged = bool(row["where"]) and not row["verified"]
        where = row["where"] or "not found; `svd-numpy data status` says where it was looked for"
        yield Finding(f"data {row['name']}", f"{where} {row['note']}" if damaged else where, ok=not damaged)


def guarded(name: str, examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Turn whatever goes wrong while examining into a finding: a doctor must not faint."""
    try:
        yield from examine()
    except Exception as error:
        yield Finding(name, f"{type(error).__name__}: {error}", ok=False)


def doctor() -> int:
    """Examine everything and print one line per finding.

    Returns
    -------
    int
        0 where all is well, 1 where something is wrong.
    """
    wrong = 0
    print("Compiling the kernels the first time takes up to a minute.", flush=True)
    for examine in (versions, processor, backends, cuda_device, compiled_kernels, data_files):
        for finding in guarded(examine.__name__.replace("_", " "), examine):
            wrong += not finding.ok
            print(f"{'ok   ' if finding.ok else 'WRONG'} {finding.name:<18} {finding.text}", flush=True)
    print(f"{wrong} thing(s) wrong" if wrong else "all is well")
    return 1 if wrong else 0


def check_gradients() -> int:
    """Run `svd_numpy.gradcheck` on a small network with each prior on each usable backend; print the tables.

    Returns
    -------
    int
        0 where all gradients agree with finite differences, else 1.
    """
    from svd_numpy.kernels import available_backends
    from svd_numpy.kernels.priors import PRIORS
    from svd_numpy.network.grad_check import gradcheck
    from svd_numpy.network.layers import ReLU, VariationalDense
    from svd_numpy.network.model import Sequential

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 6)), rng.integers(0, 3, 8)
    wrong = []
    for backend in [name for name, reason in available_backends().items() if not reason]:
        dtype = "float64" if backend == "numpy" else "float32"
        for prior in PRIORS:
            # Noise that matters: at the usual start of -10 an error in its path would not be seen.
            first, last = VariationalDense(6, 5, log_sigma2=-3.0), VariationalDense(5, 3, log_sigma2=-3.0)
            model = Sequential(first, ReLU(), last, prior=prior, backend=backend, dtype=dtype)
            report = gradcheck(model, x, y)
            print(f"prior {prior}, backend {backend}, {dtype}\n{report}\n", flush=True)
            wrong += [] if report.ok else [f"{prior} on {backend}"]
    print(f"WRONG: {', '.join(wrong)}" if wrong else "all gradients agree")
    return 1 if wrong else 0
