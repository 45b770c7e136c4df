"""`train_cifar`: a VGG-like network on small colour images, pre-trained with dropout, then made sparse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from svd_numpy.checks import SvdValueError, check_choice, check_count, check_number
from svd_numpy.data import Dataset
from svd_numpy.experiments.architectures import KINDS, build
from svd_numpy.experiments.recipes import Recipe, get_recipe
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import (
    Options,
    Start,
    check_kl_weight,
    check_options,
    configure,
    load_images,
    run,
    start_from,
)
from svd_numpy.files import checkpoint
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.console import TrainingInterrupted
from svd_numpy.train.loop import Callback

_ARCHS = ("vgg-like",)
_DATASETS = ("cifar10", "cifar100")
_FIRST = "pretrain"  # folder of the first stage inside the run's


def train_cifar(
    dataset: str = "cifar10",
    arch: str = "vgg-like",
    k: float = 1.0,
    recipe: str = "default",
    epochs: int | None = None,
    pretrain_epochs: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    backend: str = "auto",
    data_dir: str | Path | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    eval_every: int = 1,
    init_from: Start = None,
    kind: str = "variational",
    random_labels: bool = False,
    kl_weight: float = 1.0,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train a convolutional network that sparsifies itself (Molchanov, Ashukha, Vetrov, ICML 2017, §5).

    Two stages: the network with ordinary weights and Bernoulli dropout, then Sparse VD from those weights, with the
    survivors fine-tuned at its end where the recipe says so. Of the networks to compare it with, one stage.

    Parameters
    ----------
    dataset : "cifar10" or "cifar100"
    arch : "vgg-like"
        13 convolutions of 3 x 3 and two dense layers, batch-normalised.
    k : float
        Width, in [0.01, 16]: 64 k filters in the first layers, 512 k in the last ones.
    recipe : "default" or "paper"
        See `svd_numpy.experiments.recipes`.
    epochs, pretrain_epochs : int, optional
        Of Sparse VD and of pre-training, in place of the recipe's; schedules, and the fine-tuning, stretch along.
        pretrain_epochs=0: no pre-training, Sparse VD starts from random weights. With another `kind` than
        "variational" there is no pre-training, and `epochs` is by default what both stages would take together.
    batch_size : int, optional
        Of both stages.
    seed : int
        Of first weights, order of examples, their shifts, dropout and noise.
    backend : "auto", "cuda", "numba" or "numpy"
    data_dir : path, optional
        Where the data files are; default `SVD_NUMPY_DATA`, then the user's cache.
    run_dir : path, optional
        Where log, checkpoints, network and pictures go, those of the pre-training into `run_dir/pretrain`; without it
        nothing is written.
    resume : bool
        Continue the run in `run_dir`, in whichever stage it stopped, to the same bits.
    progress : bool
    eval_every : int
        Measure the test error every so many epochs for the curve (0: only at the end of each stage). Nothing is
        chosen by it.
    init_from : Sequential, mapping of arrays, or path of a saved model, optional
        Start from these weights, and do not pre-train.
    kind : "variational", "dense" or "dropout"
        Sparse VD; or, to compare with, the same network with ordinary weights, or those with Bernoulli dropout, trained
        like the first stage.
    random_labels : bool
        Replace the training labels by random ones, drawn from the seed, in both stages.
    kl_weight : float
        Factor on the weight that the recipe gives the KL: how sparse the network is to be.
    callbacks : functions (trainer, record), called after each epoch of both stages

    Returns
    -------
    TrainResult
        Its `pretrained` is the result of the first stage.

    Raises
    ------
    ValueError, TypeError
        For arguments that make no sense, before anything is written; `DataError` where data cannot be had.
    """
    plan = get_recipe(check_choice("arch", arch, _ARCHS), recipe)
    check_choice("dataset", dataset, _DATASETS)
    k, kind = check_number("k", k, low=0.01, high=16), check_choice("kind", kind, KINDS)
    options = check_options(seed, backend, run_dir, resume, progress, eval_every, callbacks)
    options = replace(options, kl_weight=check_kl_weight(kl_weight, kind))
    if kind == "variational":
        config = configure(plan.config, epochs, batch_size, options)
        first = _first_stage(plan, pretrain_epochs, config.batch_size, init_from, options)
    elif pretrain_epochs:
        raise SvdValueError(
            f"pretrain_epochs: got {pretrain_epochs}, but kind {kind!r} has one stage; give epochs alone"
        )
    else:
        assert plan.pretrain is not None
        both = plan.pretrain.total_epochs + plan.config.total_epochs
        config, first = configure(plan.pretrain, both if epochs is None else epochs, batch_size, options), None
    started = _check_folder(options, first is not None)
    data = load_images(dataset, data_dir, random_labels, options)
    if len(data.x_train) % config.batch_size == 1:
        raise SvdValueError(
            f"batch_size: got {config.batch_size}, which leaves one of {len(data.x_train)} images over, and a single "
            "image cannot be batch-normalised; choose another one"
        )
    model = build(data, plan, options.seed, options.backend, kind, k)
    start_from(model, init_from)
    pretrained = None
    if first is not None:
        pretrained = _pretrain(data, plan, first, k, options)
        model.init_from(pretrained.model)
    result = TrainResult(model, [], plan, data, {}, kind, k, pretrained, init_from is not None, options.kl_weight)
    return run(result, config, replace(options, resume=started))


def _first_stage(
    plan: Recipe, epochs: int | None, batch_size: int, init_from: Start, options: Options
) -> TrainConfig | None:
    """Settings of the pre-training; None where there is to be none."""
    if epochs is not None and check_count("pretrain_epochs", epochs, low=0) and init_from is not None:
        raise SvdValueError(
            f"pretrain_epochs: got {epochs} and init_from, which stands in for it; leave one of them out"
        )
    if epochs == 0 or init_from is not None or plan.pretrain is None:
        return None
    return configure(plan.pretrain, epochs, batch_size, replace(options, kl_weight=1.0))


def _check_folder(options: Options, pretrains: bool) -> bool:
    """Whether the second stage has begun in the run's folder; refuse a folder that does not fit the arguments."""
    folder = options.run_dir
    if folder is None:
        return False
    started = checkpoint.latest(folder / "checkpoints") is not None
    pretrained = checkpoint.latest(folder / _FIRST / "checkpoints") is not None
    if not options.resume and (started or pretrained):
        raise SvdValueError(f"run_dir {folder} holds a run already; choose another one, or resume=True to continue it")
    if options.resume and not (started or pretrained):
        raise SvdValueError(f"resume: {folder} holds no run to go on with; correct run_dir, or leave resume out")
    if options.resume and pretrained != pretrains:
        began, wanted = ("with" if there else "without" for there in (pretrained, pretrains))
        raise SvdValueError(
            f"resume: the run in {folder} began {began} pre-training, this one is to begin {wanted}; "
            "give pretrain_epochs and init_from as before, or another run_dir"
        )
    return started


def _pretrain(data: Dataset, plan: Recipe, config: TrainConfig, k: float, options: Options) -> TrainResult:
    """Do the first stage, or what is left of it, or read it back."""
    model = build(data, plan, options.seed, options.backend, "dropout", k)
    folder = options.run_dir
    inner = replace(options, run_dir=None if folder is None else folder / _FIRST)
    try:
        return run(TrainResult(model, [], plan, data, {}, "dropout", k), config, inner)
    except TrainingInterrupted as stop:
        raise TrainingInterrupted(stop.number, folder) from None  # names the folder to go on with
