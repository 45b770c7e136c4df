"""The `gradcheck` subcommand: hand-written gradients against finite differences, on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gradcheck:
    """Compare every hand-written gradient with finite differences, for each prior and backend."""

    def run(self) -> int:
        """Print a table for each; 0 where all gradients agree, else 1."""
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
                # At the usual start of -10 the noise is too small to show an error in its path.
                first, last = VariationalDense(6, 5, log_sigma2=-3.0), VariationalDense(5, 3, log_sigma2=-3.0)
                model = Sequential(first, ReLU(), last, prior=prior, backend=backend, dtype=dtype)
                report = gradcheck(model, x, y)
                print(f"prior {prior}, backend {backend}, {dtype}\n{report}\n", flush=True)
                wrong += [] if report.ok else [f"{prior} on {backend}"]
        print(f"WRONG: {', '.join(wrong)}" if wrong else "all gradients agree")
        return 1 if wrong else 0
