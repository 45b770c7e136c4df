"""The one decorator behind every CPU kernel: Numba's options, and a cache on disk that never returns the wrong code.

Numba looks for changes only in the file of the kernel that is called. A kernel also contains helpers and constants from
other files, so `kernel` stamps each cache entry with a fingerprint of every file that may be compiled in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile

# `True` would also promise "no NaN, no infinity" and let the compiler delete every check for them.
FASTMATH = {"contract", "arcp", "nsz"}


def sources() -> list[Path]:
    """Every file whose text may be part of compiled code: these kernels, the contract, and `checks.py`."""
    here = Path(__file__).resolve().parent
    return [*sorted(here.glob("*.py")), *sorted(here.parent.glob("*.py")), here.parents[1] / "checks.py"]


@cache
def fingerprint() -> str:
    """Hash of the names and texts of `sources`."""
    digests = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sources()]
    return hashlib.sha256(repr(digests).encode()).hexdigest()


class _SharedCacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """A kernel's files in the cache, safe for several processes at a time.

    Numba's index says which numbered file holds the code for which argument types. Two processes that write at once may
    use the same number for different code, and a file may be replaced after a process has looked it up. So each file
    also says for which types and from which sources it was compiled. If these are not the ones wanted, the kernel is
    compiled again.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write compiled code for the argument types in `key`."""
        super().save(key, (self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        """Read compiled code for the argument types in `key`; None if there is none."""
        match super().load(key):
            case (stamp, held, data) if stamp == self._source_stamp and held == key:
                return data
        return None


def kernel(*, parallel: bool = False, inline: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function with Numba on its first call and keep the machine code on disk.

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
            cache=True,
            nogil=True,
            error_model="numpy",
            fastmath=FASTMATH,
            boundscheck=False,
        )(function)
        # Numba has no public hook for this; `tests/test_kernel_cache.py` notices if it moves these attributes.
        on_disk = compiled._cache
        on_disk._cache_file = _SharedCacheFile(on_disk.cache_path, on_disk._impl.filename_base, fingerprint())
        return compiled

    return decorate
