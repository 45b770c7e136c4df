"""`python -m svd_numpy.micro [METHOD]` trains on the digits and prints what dies; without a method, Sparse VD."""

from __future__ import annotations

import sys
from importlib import import_module

METHODS = ("sparse_vd", "bayesian_compression", "structured_pruning", "dynamic_surgery", "l0", "ivon", "lstm")


def main(arguments: list[str]) -> None:
    """Run the method that the only argument names."""
    name = arguments[0] if arguments else METHODS[0]
    if name not in METHODS or len(arguments) > 1:
        sys.exit(f"micro: got {' '.join(arguments)!r}, expected one of {', '.join(METHODS)}")
    import_module(f"svd_numpy.micro.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
