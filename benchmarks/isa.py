"""Holding a benchmark to fewer instructions than the processor has: ``--isa avx2``.

The libraries read these variables when they load, so the script starts itself anew with them; all that it starts
inherits them, our candidates and everybody else's.
"""

from __future__ import annotations

import argparse
import os
import sys

AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",  # the compiler of torch.compile obeys this one, too
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--isa`` to a command line."""
    parser.add_argument(
        "--isa", choices=["avx2"], default=held(), help="hold all candidates to these instructions (all there are)"
    )


def held() -> str:
    """What this process is held to; empty if to nothing."""
    return "avx2" if all(os.environ.get(name) == value for name, value in AVX2.items()) else ""


def hold(isa: str) -> None:
    """Start the script anew under the variables, unless it runs under them."""
    if isa == held():
        return
    import llvmlite.binding as llvm

    features = sorted(llvm.get_host_cpu_features().items())
    kept = ("+" + name if there and not name.startswith("avx512") else "-" + name for name, there in features)
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **AVX2, "NUMBA_CPU_FEATURES": ",".join(kept)})


def suffix() -> str:
    """What the names of result files end in."""
    return f"-{held()}" if held() else ""


def lines() -> list[str]:
    """The line above a table that says what was held back; none if nothing was."""
    names = " ".join(f"{name}={value}" for name, value in AVX2.items())
    line = f"* Instructions: AVX2 at most, for all candidates (`{names}`, and `NUMBA_CPU_FEATURES` without AVX-512)"
    return [line] if held() else []
