"""The `doctor` subcommand: what this installation has, and whether its backends compute the right numbers."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from svd_numpy.checks import SvdError

PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "matplotlib", "scikit-learn", "safetensors", "pooch", "tqdm", "tyro")
FEATURES = ("sse4.2", "avx", "avx2", "fma", "avx512f", "neon", "sve")
TOLERANCE = 1e-4  # float32 against float64, relative to the largest number of an array

REINSTALL = "install svd-numpy again, with the packages it needs: pip install --force-reinstall svd-numpy"
CHOICE = "unset the environment variable SVD_NUMPY_BACKEND, or correct it"
EMPTY_CACHE = (
    "unset the other environment variables NUMBA_*, set NUMBA_CACHE_DIR to an empty folder and try again; if that does "
    "not help, train with --backend numpy and report this"
)
WRITABLE_CACHE = "set NUMBA_CACHE_DIR to a folder that you may write to, or kernels are compiled anew in every process"
NO_GPU = "see what `nvidia-smi` says; every other backend works without a GPU"
DATA_STATUS = "`svd-numpy data status` checks the data files alone"


@dataclass(frozen=True)
class Doctor:
    """Check this installation: versions, processor, data files, and a small computation on every backend."""

    def run(self) -> int:
        """Print one line per finding; 0 where all is well, 1 where something is wrong."""
        wrong = 0
        print("Compiling the kernels the first time takes up to a minute.", flush=True)
        for finding in examination():
            wrong += not finding.ok
            text = " ".join(finding.text.split())  # errors may have several lines
            print(f"{'ok   ' if finding.ok else 'WRONG'} {finding.name:<18} {text}", flush=True)
        print(f"found wrong: {wrong}" if wrong else "all is well")
        return 1 if wrong else 0


class Finding(NamedTuple):
    """One line of the report; where something is wrong, the text ends in what to do."""

    name: str
    text: str
    ok: bool = True


def examination() -> Iterator[Finding]:
    """Examine everything; what fails in one place does not keep the others from being examined."""
    yield from guarded("versions", versions, REINSTALL)
    yield from guarded("processor", processor, REINSTALL)
    yield from guarded("backends", backends, CHOICE)
    yield from guarded("self-checks", self_checks, REINSTALL)
    yield from guarded("cuda device", cuda_device, NO_GPU)
    if numba_is_usable():  # otherwise the backends say what is wrong with it
        yield from guarded("kernel cache", kernel_cache, WRITABLE_CACHE)
        yield from guarded("threading layer", threading_layer, EMPTY_CACHE)
    yield from guarded("data files", data_files, DATA_STATUS)


def numba_is_usable() -> bool:
    """Whether kernels can be compiled for the processor."""
    from svd_numpy.kernels import available_backends

    return not available_backends()["numba"]


def guarded(name: str, examine: Callable[[], Iterator[Finding]], remedy: str) -> Iterator[Finding]:
    """Turn whatever goes wrong while examining into a finding."""
    try:
        yield from examine()
    except Exception as error:
        what = str(error) if isinstance(error, SvdError) else f"{type(error).__name__}: {error}"
        yield Finding(name, f"{what}; {remedy}", ok=False)


def versions() -> Iterator[Finding]:
    """Look up the versions of Python, of this package and of those it needs."""
    from svd_numpy import __version__

    yield Finding("svd_numpy", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Finding(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, f"not installed; pip install {package}", ok=False)


def processor() -> Iterator[Finding]:
    """Name the processor, its vector instructions, and the cores that this process may use."""
    import llvmlite.binding as llvm

    from svd_numpy.train.ranks import usable_cores

    features = llvm.get_host_cpu_features()
    vectors = " ".join(name for name in FEATURES if features.get(name)) or "none that matter here"
    yield Finding("processor", f"{cpu_name()} ({llvm.get_host_cpu_name()}); vector instructions: {vectors}")
    yield Finding("cores", str(len(usable_cores())))


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

    for name, reason in available_backends().items():
        yield Finding(f"backend {name}", reason or "usable", ok=not reason or name == "cuda")  # no GPU is no fault
    yield Finding("backend auto", f"means {resolve_backend('auto')}")


def self_checks() -> Iterator[Finding]:
    """Do `self_check` on every usable backend."""
    from svd_numpy.kernels import available_backends

    for name in [name for name, reason in available_backends().items() if not reason]:
        yield from guarded(f"self-check {name}", partial(self_check, name), EMPTY_CACHE)


def self_check(backend: str) -> Iterator[Finding]:
    """Compare loss and gradients of a small network with the plain backend in float64."""
    loss, grads = _loss_and_grads(backend, "float32")
    exact_loss, exact_grads = _loss_and_grads("numpy", "float64")
    errors = {"loss": relative_error(loss, exact_loss)}
    errors |= {name: relative_error(grads[name], exact) for name, exact in exact_grads.items()}
    worst = max(errors, key=lambda name: errors[name])
    ok = errors[worst] <= TOLERANCE
    text = f"loss and gradients within {errors[worst]:.1e} of float64 (largest: {worst}; allowed {TOLERANCE:g})"
    yield Finding(f"self-check {backend}", text if ok else f"{text}; {EMPTY_CACHE}", ok)


def relative_error(found: Any, exact: Any) -> float:
    """Largest difference of two arrays, divided by the largest number of the exact one."""
    return float(np.max(np.abs(found - exact)) / np.max(np.abs(exact)))


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


def kernel_cache() -> Iterator[Finding]:
    """Check that compiled kernels can be kept on disk."""
    folder = kernel_cache_folder()
    if folder is None:
        yield Finding("kernel cache", f"found no folder to keep compiled kernels in; {WRITABLE_CACHE}", ok=False)
        return
    with tempfile.TemporaryFile(dir=folder):
        yield Finding("kernel cache", f"{folder} (writable; `svd-numpy warm-up` compiles ahead what it lacks)")


def kernel_cache_folder() -> str | None:
    """Return where compiled kernels are kept; None if they are not."""
    from svd_numpy.kernels.cpu import layers

    lrt_forward: Any = layers.lrt_forward  # a Numba dispatcher
    folder: str | None = lrt_forward.stats.cache_path
    return folder


def threading_layer() -> Iterator[Finding]:
    """Name what runs Numba's threads. It is known only once a parallel kernel has run, as in the self-check."""
    import numba

    yield Finding("threading layer", f"{numba.threading_layer()}, {numba.get_num_threads()} threads")


def data_files() -> Iterator[Finding]:
    """Say which data sets are found where; a missing one is no fault, a damaged one is."""
    from svd_numpy.data import status

    for row in status():
        damaged = bool(row["where"]) and not row["verified"]
        where = row["where"] or "not found (`svd-numpy data status` says where it was looked for)"
        yield Finding(f"data {row['name']}", f"{where}: {row['note']}" if damaged else where, ok=not damaged)
