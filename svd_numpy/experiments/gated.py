"""Structured methods: recipes with gates, and the networks of the architectures with them, in one line."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_choice, check_count, check_number
from svd_numpy.data import Dataset
from svd_numpy.experiments.architectures import ARCHITECTURES, build
from svd_numpy.experiments.recipes import Gates, Recipe, get_recipe
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig

_COMPRESSION = ("normal-jeffreys", "half-cauchy")
# Factor on the KL at which lenet-300-100 is as small as published or smaller, and errs on held-out images no more often
# (1.8 %); with 1, it errs less and keeps twice as much (`benchmarks/results/search-gates-lenet-300-100.md`). For
# half-Cauchy gates, 3 and 6 were tried. For lenet-5, 3 and 4.5 were tried with normal-Jeffreys gates
# (`search-gates-lenet-5.md`). That is for 60,000 images; with fewer, each is given as much weight.
_KL = {"normal-jeffreys": 3.0, "half-cauchy": 4.0, "hard-concrete": 8.0}
_CLOSED_ABOVE = {"half-cauchy": {"threshold": 0.5}}  # of inputs that it likes to keep, most do nothing
# What Bayesian compression of lenet-5 does its own way. Its steps are dear, so removal begins as soon as the KL has
# about its published weight. It is fine-tuned at the rate of Sparse VD, which is better on held-out images (two
# networks, after 10 epochs at 1e-4: 1.28 % and 1.46 %; after 20 more at 1e-3: 1.22 % and 1.30 %).
_OF_ARCH: dict[str, dict[str, Any]] = {"lenet-5": {"remove_from": 25, "finetune_epochs": 20, "finetune_lr": 1e-3}}
# Largest sigma of the first layers with weights: weights behind closed gates return to their prior, whose noise would
# leak through (Louizos, Ullrich, Welling 2017, §5; the code that goes with the paper has .2 for lenet-300-100).
_SIGMA_MAX = {"lenet-300-100": (0.2,), "lenet-500-300": (0.2,), "lenet-5": (0.5,), "vgg-like": (0.1,) * 4 + (0.2,) * 3}


def _config(plan: Recipe, **changes: Any) -> TrainConfig:
    """What all structured methods share: 200 epochs, from half of which on the learning rate falls to 0.

    Removal, which is no worse on held-out images and takes half as long, begins at the epoch `remove_from`: by that
    time the KL has had at least half of its weight, or the published one, because a unit that is removed too early does
    not come back.
    """
    common: dict[str, Any] = {
        "epochs": 200, "batch_size": 100, "lr": 1e-3, "lr_schedule": ((100.0, 1.0), (200.0, 0.0)), "train_mask": False,
        "remove_above": 5.0, "remove_from": 50, "finetune_epochs": 10, "finetune_lr": 1e-4, "finetune_threshold": 3.0,
    }  # fmt: skip
    return replace(plan.config, **(common | changes))


def _kl_weight(plan: Recipe, family: str) -> float:
    return _KL[family] * plan.images / 60_000


def compression(plan: Recipe, family: str = "normal-jeffreys") -> Recipe:
    """Bayesian compression: gates on weights whose prior is N(0, 1); the KL grows over 100 epochs."""
    ramp = ((0.0, 0.0), (100.0, _kl_weight(plan, family)))
    config = _config(plan, kl_schedule=ramp, **_OF_ARCH.get(plan.arch, {}))
    gates, sigma_max = Gates(family, _CLOSED_ABOVE.get(family, {})), _SIGMA_MAX[plan.arch]
    return replace(plan, config=config, gates=gates, prior="normal", log_sigma2=-9.0, sigma_max=sigma_max)


def half_cauchy(plan: Recipe) -> Recipe:
    """Bayesian compression with half-Cauchy gates."""
    return compression(plan, "half-cauchy")


def structured(plan: Recipe, score: str = "snr") -> Recipe:
    """Structured Bayesian pruning: 50 epochs without KL, in which weights learn, then 200 with it."""
    config = _config(
        plan, epochs=250, lr_schedule=((150.0, 1.0), (250.0, 0.0)), kl_schedule=((50.0, 0.0), (51.0, 1.0)), beta1=0.95,
        remove_from=60,
    )  # fmt: skip
    return replace(plan, config=config, gates=Gates("truncated-log-normal", {"score": score}))


def l0(plan: Recipe, penalty: float = 0.1) -> Recipe:
    """L0: a fifth of the inputs is closed at the start, and half of the hidden units."""
    gates = Gates("hard-concrete", {"penalty": penalty, "keep": 0.5}, {"keep": 0.8}, by_weights="size")
    config = _config(plan, kl_schedule=((0.0, _kl_weight(plan, "hard-concrete")),), remove_from=20)
    return replace(plan, config=config, gates=gates)


def bottleneck(plan: Recipe) -> Recipe:
    """Variational information bottleneck (VIBNet)."""
    config = _config(plan, kl_schedule=((0.0, 0.0), (50.0, 1.0)), remove_from=25)
    return replace(plan, config=config, gates=Gates("ard"))


def bayesian_compression(
    arch: str = "lenet-300-100", prior: str = "normal-jeffreys", *, input_shape: tuple[int, int, int] | None = None,
    n_classes: int = 10, width: float = 1.0, backend: str = "auto", seed: int = 0,
) -> Sequential:  # fmt: skip
    """Make a network for Bayesian compression (Louizos, Ullrich, Welling 2017).

    Gates stand before the layers with weights; the weights are Gaussians with prior N(0, 1) and a bounded sigma.

    Parameters
    ----------
    arch : "lenet-300-100", "lenet-500-300", "lenet-5" or "vgg-like"
    prior : "normal-jeffreys" or "half-cauchy"
        The family of the gates.
    input_shape : (C, H, W), optional
        Default: that of MNIST, or for vgg-like that of CIFAR.
    n_classes : int
    width : float
        Factor on the numbers of filters and hidden units, 0.01 to 16.
    backend : str
    seed : int

    Returns
    -------
    Sequential

    See Also
    --------
    svd_numpy.train_mnist : `method="bc-gnj"` or `method="bc-ghs"` trains it with its recipe.
    """
    check_choice("prior", prior, _COMPRESSION)
    return _make(compression(_plan(arch), prior), "variational", input_shape, n_classes, width, backend, seed)


def structured_pruning(
    arch: str = "lenet-500-300", score: str = "snr", *, input_shape: tuple[int, int, int] | None = None,
    n_classes: int = 10, width: float = 1.0, backend: str = "auto", seed: int = 0,
) -> Sequential:  # fmt: skip
    """Make a network for structured Bayesian pruning (Neklyudov, Molchanov, Ashukha, Vetrov 2017).

    Truncated log-normal gates stand before the layers with weights, which are ordinary numbers.

    Parameters
    ----------
    arch : "lenet-300-100", "lenet-500-300", "lenet-5" or "vgg-like"
    score : "snr", "bmrs" or "bmrs-uniform"
        By which units are closed; see `svd_numpy.network.gates.truncated_log_normal`.
    input_shape, n_classes, width, backend, seed
        As in `bayesian_compression`.

    Returns
    -------
    Sequential
    """
    return _make(structured(_plan(arch), score), "dense", input_shape, n_classes, width, backend, seed)


def l0_regularisation(
    arch: str = "lenet-300-100", penalty: float = 0.1, *, input_shape: tuple[int, int, int] | None = None,
    n_classes: int = 10, width: float = 1.0, backend: str = "auto", seed: int = 0,
) -> Sequential:  # fmt: skip
    """Make a network whose number of weights is penalised (Louizos, Welling, Kingma 2018).

    Hard concrete gates stand before the layers with weights, which are ordinary numbers.

    Parameters
    ----------
    arch : "lenet-300-100", "lenet-500-300", "lenet-5" or "vgg-like"
    penalty : float
        Nats for each weight that is expected to be left.
    input_shape, n_classes, width, backend, seed
        As in `bayesian_compression`.

    Returns
    -------
    Sequential
    """
    plan = l0(_plan(arch), check_number("penalty", penalty, low=1e-30, high=1e6))
    return _make(plan, "dense", input_shape, n_classes, width, backend, seed)


def _plan(arch: str) -> Recipe:
    return get_recipe(check_choice("arch", arch, tuple(ARCHITECTURES)), "default")


def _make(
    plan: Recipe, kind: str, input_shape: tuple[int, int, int] | None, n_classes: int, width: float, backend: str,
    seed: int,
) -> Sequential:  # fmt: skip
    """Build a network for images of a shape; the mean image, if the recipe subtracts one, is 0."""
    shape = ((3, 32, 32) if plan.arch == "vgg-like" else (1, 28, 28)) if input_shape is None else input_shape
    if not isinstance(shape, tuple | list) or len(shape) != 3:
        raise SvdValueError(f"input_shape: got {shape!r}, expected (C, H, W)")
    sides = [check_count("input_shape", side) for side in shape]
    blank = np.zeros((1, math.prod(sides)), np.uint8)
    label, classes = np.zeros(1, np.int64), check_count("n_classes", n_classes, low=2)
    data = Dataset("blank", blank, label, blank, label, (sides[0], sides[1], sides[2]), classes, "made here")
    return build(data, plan, seed, backend, kind, width)
