"""The one decorator behind every CPU kernel: Numba options, and a cache that knows about all kernel files.

Numba's on-disk cache asks only whether the file of the *called* kernel has changed; a helper edited in another file
would leave a stale binary behind. `kernel` therefore stamps each cache entry with a fingerprint of every source file
in this folder, so an edit anywhere in it recompiles the kernels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

# `True` would also promise "no NaN, no infinity" and let the compiler delete every check for them.
FASTMATH = {"contract", "arcp", "nsz"}


@cache
def _fingerprint() -> str:
    """Hash of the source text of all kernel files."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


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
        # No public hook exists for the stamp; `tests/test_kernels.py` notices if Numba moves it.
        compiled._cache._cache_file._source_stamp = _fingerprint()
        return compiled

    return decorate
