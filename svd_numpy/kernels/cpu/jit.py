"""The one decorator behind every CPU kernel: Numba's options, and a cache on disk that never returns the wrong code.

Numba looks for changes only in the file of the kernel that is called. A kernel also contains helpers and constants from
other files, so `kernel` stamps each cache entry with a fingerprint of every file that may be compiled in.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

# `True` would also promise "no NaN, no infinity" and let the compiler delete every check for them.
FASTMATH = {"contract", "arcp", "nsz"}


def sources(package: Traversable) -> list[Traversable]:
    """Every file whose text may be part of compiled code: these kernels, the contract, and `checks.py`.

    Raises
    ------
    FileNotFoundError
        If the package has no sources, only bytecode.
    """
    kernels = package / "kernels"
    found = [path for folder in (kernels / "cpu", kernels) for path in folder.iterdir() if path.name.endswith(".py")]
    if not found:
        raise FileNotFoundError(f"no source files in {kernels}")
    return [*sorted(found, key=str), package / "checks.py"]


def digest(paths: list[Traversable]) -> str:
    """Hash of the names and texts of files."""
    digests = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
    return hashlib.sha256(repr(digests).encode()).hexdigest()


@cache
def fingerprint() -> str:
    """Hash of the sources of this package, which may be a folder or inside a zip."""
    return digest(sources(files("svd_numpy")))


@cache
def warn_once() -> None:
    """Say that kernels are not kept, and what helps."""
    remedy = "set the environment variable NUMBA_CACHE_DIR to a folder that you may write to"
    if not Path(__file__).exists():
        remedy = "install the package unpacked: Numba keeps little of what it compiles from a zip"
    warnings.warn(
        "compiled kernels cannot be kept on disk, so every process compiles them anew, which takes up to a minute; "
        f"{remedy}",
        RuntimeWarning,
        stacklevel=3,
    )


class _SharedCacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """A kernel's files in the cache, safe for several processes at a time.

    Numba's index says which numbered file holds the code for which argument types. Two processes that write at once may
    use the same number for different code, and a file may be replaced after a process has looked it up. So each file
    also says for which types and from which sources it was compiled, and holds a checksum. If these are not as
    wanted, the kernel is compiled again, and the new code replaces the old.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write compiled code for the argument types in `key`."""
        super().save(key, (self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        """Read compiled code for the argument types in `key`; None if there is none that is sound."""
        match super().load(key):
            case (stamp, held, data) if stamp == self._source_stamp and held == key:
                return data
        return None

    def _load_index(self) -> Any:
        """Read which file holds what; a damaged index counts as empty, and is replaced by the next `save`."""
        try:
            return super()._load_index()
        except Exception:  # Numba unpickles it, and a damaged one raises almost anything
            return {}

    def _dump(self, content: Any) -> bytes:
        """Turn the content of a file into bytes, with a checksum at their end, which Numba does not read."""
        code: bytes = super()._dump(content)
        return code + hashlib.sha256(code).digest()

    def _load_data(self, name: str) -> Any:
        """Read one file of compiled code, if it is sound: a flipped bit in machine code can end the process."""
        code = Path(self._data_path(name)).read_bytes()
        return super()._load_data(name) if hashlib.sha256(code[:-32]).digest() == code[-32:] else None


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one kernel, stamped with the fingerprint; where nothing can be written, kernels still run."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _SharedCacheFile(self.cache_path, self._impl.filename_base, fingerprint())

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for one signature, if that is possible."""
        try:
            super().save_overload(sig, data)
        except OSError:  # the disk is full, or the folder has become read-only
            warn_once()


def kernel(*, parallel: bool = False, inline: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function with Numba on its first call and keep the machine code on disk, if there is a place for it.

    Parameters
    ----------
    parallel : bool
        Run the function's `numba.prange` loops on all threads. Only loops whose iterations write disjoint outputs
        may be parallel: a parallel sum would change its bits with the number of threads.
    inline : bool
        Always merge the function into its caller: for scalar helpers, since a loop that calls is not vectorised.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = numba.njit(
            parallel=parallel,
            forceinline=inline,
            nogil=True,
            error_model="numpy",
            fastmath=FASTMATH,
            boundscheck=False,
        )(function)
        try:
            # Numba has no public hook for this; `tests/test_kernel_cache.py` notices if it moves these attributes.
            compiled._cache = _KernelCache(function)
        except (RuntimeError, OSError):  # no folder to write to; no sources to tell new code from old
            warn_once()
        return compiled

    return decorate
