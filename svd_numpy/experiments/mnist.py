"""`train_mnist`: the main job, a sparse LeNet from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svd_numpy.checks import check_choice
from svd_numpy.experiments.architectures import KINDS, build
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import Start, check_options, configure, load_for_each, run_all, start_from
from svd_numpy.experiments.series import TrainResults, options_of_each
from svd_numpy.train.loop import Callback

_ARCHS = ("lenet-300-100", "lenet-5")


def train_mnist(
    arch: str = "lenet-300-100",
    recipe: str = "default",
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    backend: str = "auto",
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    eval_every: int = 1,
    init_from: Start = None,
    kind: str = "variational",
    random_labels: bool = False,
    kl_weight: float | Iterable[float] = 1.0,
    callbacks: Sequence[Callback] = (),
    seeds: Iterable[int] | None = None,
) -> Any:
    """Train a network that sparsifies itself (Molchanov, Ashukha, Vetrov, ICML 2017).

    Parameters
    ----------
    arch : "lenet-300-100" or "lenet-5"
        Fully connected, or LeNet-5-Caffe with two convolutions.
    recipe : "default" or "paper"
        See `svd_numpy.experiments.recipes`.
    epochs : int, optional
        Variational epochs, in place of the recipe's; its schedules and its fine-tuning stretch along.
    batch_size : int, optional
    seed : int
        Of first weights, order of examples and noise.
    backend : "auto", "cuda", "numba" or "numpy"
    dataset : "auto", "mnist", "fashion-mnist" or "digits"
        "auto" is MNIST where it can be had, else scikit-learn's small embedded digits, said loudly.
    data_dir : path, optional
        Where the data files are; default `SVD_NUMPY_DATA`, then the user's cache, then download.
    run_dir : path, optional
        Where log, checkpoints, network and pictures go; without it nothing is written.
    resume : bool
        Continue the run in `run_dir`, to the same bits.
    progress : bool
    eval_every : int
        Measure the test error every so many epochs for the curve (0: only at the end). Nothing is chosen by
        it.
    init_from : Sequential, mapping of arrays, or path of a saved model, optional
        Start from given weights.
    kind : "variational", "dense" or "dropout"
        Sparse VD; or, to compare with, the same network with ordinary weights, or those with Bernoulli dropout of 1/2
        before dense layers (not of pixels). These two have no KL and no fine-tuning, and prune nothing.
    random_labels : bool
        Replace the training labels by random ones, drawn from the seed (Molchanov et al. 2017, §5): whoever gets the
        training error (`history[-1]["train_error"]`) down then has learned the images by heart.
    kl_weight : number, or several
        Factor on the weight that the recipe gives the KL: how sparse the network is to be. With several, one run for
        each, with each of the seeds: what sparsity costs.
    callbacks : functions (trainer, record), called after each epoch
    seeds : whole numbers, optional
        Instead of `seed`: one run for each of these. Backend "cuda" does several runs side by side in the same
        launches, "numba" and "numpy" one after the other; each has the bits that it has alone. With a run_dir, their
        folders are in it: `seed-N`, `kl-W`, or `kl-W-seed-N`.

    Returns
    -------
    TrainResult; TrainResults where there are several KL weights, or `seeds`
        A sequence of them, by KL weight and then by seed, that prints as a table with mean ± standard deviation.

    Raises
    ------
    ValueError, TypeError
        For arguments that make no sense, before anything is read or written; `DataError` where data cannot
        be had.
    """
    plan = get_recipe(check_choice("arch", arch, _ARCHS), recipe)
    check_choice("kind", kind, KINDS)
    options = check_options(seed, backend, run_dir, resume, progress, eval_every, callbacks)
    each, several = options_of_each(options, seeds, kl_weight, kind)
    jobs, configs = [], [configure(plan.config, epochs, batch_size, own) for own in each]
    for own, config, data in zip(each, configs, load_for_each(dataset, data_dir, random_labels, each), strict=True):
        model = build(data, plan, own.seed, own.backend, kind)
        start_from(model, init_from)
        if kind != "variational":
            config = replace(config, finetune_epochs=0)  # there is nothing to prune
        result = TrainResult(model, [], plan, data, {}, kind, init_from=init_from is not None, kl_weight=own.kl_weight)
        jobs.append((result, config, own))
    results = run_all(jobs, options)
    if not several:
        return results[0]
    series = TrainResults(results)
    if options.run_dir is not None:
        series.save(options.run_dir)
    return series
