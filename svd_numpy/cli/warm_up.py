"""The `warm-up` subcommand: compiles the kernels ahead, so that the first training or prediction need not wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_numpy.checks import SvdError

if TYPE_CHECKING:
    from svd_numpy.data import Dataset
    from svd_numpy.experiments.recipes import Recipe
    from svd_numpy.network.model import Sequential
    from svd_numpy.train.config import TrainConfig

WIDTH = 0.1  # of networks whose width is free: kernels are the same for all sizes


@dataclass(frozen=True)
class WarmUp:
    """Compile the kernels that training and prediction need, and keep them for later processes.

    For a container image or a shared machine: run it once where the package is installed, as the user who will train.
    """

    def run(self) -> int:
        """Take a few steps with every kind of network; 1 where compiled kernels cannot be kept."""
        from svd_numpy.cli.doctor import WRITABLE_CACHE, kernel_cache_folder
        from svd_numpy.kernels import available_backends

        if reason := available_backends()["numba"]:
            raise SvdError(f"there is nothing to compile, since the backend numba cannot be used: {reason}")
        print("The first time, this takes a minute or two.", flush=True)
        started = time.perf_counter()
        for name, use in stages():
            before = time.perf_counter()
            use()
            print(f"{time.perf_counter() - before:7.1f} s  {name}", flush=True)
        folder = kernel_cache_folder()
        seconds = f"{time.perf_counter() - started:.1f} s in all"
        if folder is None:
            print(f"{seconds}, but the compiled kernels cannot be kept: {WRITABLE_CACHE}")
            return 1
        print(f"{seconds}; the compiled kernels are kept in {folder}")
        return 0


def stages() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what is to be tried, each with its name."""
    from svd_numpy.experiments.gated import compression
    from svd_numpy.experiments.recipes import RECIPES

    for (arch, name), recipe in RECIPES.items():
        yield f"{arch}, recipe {name}", partial(use_recipe, recipe)
    yield "gates", partial(use_recipe, compression(RECIPES["lenet-300-100", "default"]))
    yield "tables", use_table


def use_recipe(recipe: Recipe) -> None:
    """Train every kind of the recipe's network, and use what comes of it."""
    from svd_numpy.data import Dataset
    from svd_numpy.experiments.architectures import KINDS, build

    shape = (3, 32, 32) if recipe.arch == "vgg-like" else (1, 28, 28)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, int(np.prod(shape))), np.uint8), np.arange(60) % 10
    data = Dataset("warm-up", x[:40], y[:40], x[40:], y[40:], shape, 10, "made here")
    for kind in KINDS:
        model = build(data, recipe, 0, "numba", kind, WIDTH if recipe.arch == "vgg-like" else 1.0)
        # The third epoch is trained on what is left: lists of weights.
        removal: dict[str, Any] = (
            {"epochs": 2, "finetune_epochs": 1, "remove_above": -6.0} if kind == "variational" else {}
        )
        config = replace(recipe.config, **{"epochs": 1, "finetune_epochs": 0, "batch_size": 20, **removal})
        use(model, data, config)


def use_table() -> None:
    """Train a regression, whose inputs are floats."""
    from svd_numpy.data import Dataset
    from svd_numpy.network.layers import ReLU, VariationalDense
    from svd_numpy.network.model import Sequential
    from svd_numpy.train.config import TrainConfig

    x = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    y = x[:, :1].astype(np.float64)
    data = Dataset("warm-up", x[:40], y[:40], x[40:], y[40:], None, 0, "made here")
    layers = VariationalDense(5, 8), ReLU(), VariationalDense(8, 1)
    use(Sequential(*layers, backend="numba", likelihood="gaussian"), data, TrainConfig(epochs=1, batch_size=20))


def use(model: Sequential, data: Dataset, config: TrainConfig) -> None:
    """Train a network, and predict with it and with what is left of it, one example and several."""
    from svd_numpy.network.scoring import evaluate
    from svd_numpy.sparse import compress
    from svd_numpy.train.loop import fit

    fit(model, data, config, progress=False)
    evaluate(model, data.x_test, data.y_test)
    model.kl()
    small = compress(model, backend="numba")
    for rows in (data.x_test[:1], data.x_test, data.x_test.astype(np.float32) / 255):
        model.predict(rows)
        model.sample(rows, 2)
        small.predict(rows)
