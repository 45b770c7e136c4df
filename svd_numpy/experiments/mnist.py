"""`train_mnist`: the main experiment, a sparse LeNet from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, overload

from svd_numpy.checks import check_choice
from svd_numpy.experiments.methods import DEFAULT, get_method
from svd_numpy.experiments.options import Keywords, Options, Start
from svd_numpy.experiments.recipes import get_recipe, note_on_size
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import begin, configure, load_for_each, run_all
from svd_numpy.experiments.series import TrainResults, one_or_all, options_of_each
from svd_numpy.train.console import say
from svd_numpy.train.loop import Callback
from svd_numpy.train.ranks import ALONE, Ranks

ARCHS = ("lenet-300-100", "lenet-500-300", "lenet-5")


@overload
def train_mnist(*, kl_weight: float = ..., seeds: None = ..., **options: Unpack[Keywords]) -> TrainResult: ...
@overload
def train_mnist(
    *, kl_weight: Iterable[float], seeds: Iterable[int] | None = ..., **options: Unpack[Keywords]
) -> TrainResults: ...
@overload
def train_mnist(*, kl_weight: float = ..., seeds: Iterable[int], **options: Unpack[Keywords]) -> TrainResults: ...
def train_mnist(
    *,
    dataset: str = "auto",
    arch: str = "lenet-300-100",
    recipe: str = "default",
    method: str = DEFAULT,
    kind: str = "variational",
    epochs: int | None = None,
    batch_size: int | None = None,
    kl_weight: float | Iterable[float] = 1.0,
    seed: int = 0,
    seeds: Iterable[int] | None = None,
    random_labels: bool = False,
    init_from: Start = None,
    backend: str = "auto",
    data_dir: str | Path | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    extend: int = 0,
    remove_above: float | None = None,
    sparsity: float | None = None,
    finetune_bits: int | None = None,
    held_out: float = 0.0,
    changes: Mapping[str, Any] | None = None,
    progress: bool = True,
    eval_every: int = 1,
    callbacks: Sequence[Callback] = (),
    log: Sequence[str] = (),
    shards: int = 1,
    ranks: Ranks = ALONE,
) -> TrainResult | TrainResults:
    """Train a network that sparsifies itself (Molchanov, Ashukha, Vetrov, ICML 2017).

    Parameters
    ----------
    dataset : "auto", "mnist", "fashion-mnist", "digits", or another name of images with labels (`svd_numpy.load`)
        "auto" is MNIST if it is available, otherwise scikit-learn's small embedded digits, with a prominent warning.
        "idx" is the four IDX files in `data_dir`.
    arch : "lenet-300-100", "lenet-500-300" or "lenet-5"
        Fully connected, with so many hidden units, or LeNet-5-Caffe with two convolutions.
    recipe : "default", "paper" or "small"
        Our own numbers or the authors' (`svd_numpy.experiments.recipes`), or ours for a few thousand images, such as
        the digits; the last one for lenet-300-100 only.
    method : "sparse-vd", or another of `svd_numpy.experiments.methods.METHODS`
        How the network is made small; each method has its own network, and changes the recipe of Sparse VD.
    kind : "variational", "dense", "dropout" or "gaussian-dropout"
        Sparse VD; or, as a baseline, the same network with ordinary weights, without or with dropout of 1/2 before
        dense layers (not of pixels). The last three have no KL and no fine-tuning, and prune nothing.
    epochs : int, optional
        Variational epochs, instead of the recipe's; its schedules and its fine-tuning are stretched to match.
    batch_size : int, optional
        Images per step, instead of the recipe's.
    kl_weight : number, or several
        Factor on the KL schedule of the recipe, 0 to 1000: a larger one makes a sparser network. With several, there is
        a run for each (and each seed).
    seed : int
        Seed of initial weights, order of examples and noise.
    seeds : whole numbers, optional
        Instead of `seed`: a run for each of these. The backend "cuda" does several runs in the same launches, "numba"
        and "numpy" one after the other; each run gives the same bits as on its own. With a run_dir, each has a folder
        in it: `seed-N`, `kl-W`, or `kl-W-seed-N`.
    random_labels : bool
        Replace the training labels with random ones, drawn from the seed (Molchanov et al. 2017, §5). A network that
        still reaches a low training error (`history[-1]["train_error"]`) has memorised the images, which are not
        shifted then.
    init_from : Sequential, mapping of arrays, or path of a saved model, optional
        Start from these weights.
    backend : "auto", "cuda", "numba" or "numpy"
    data_dir : path, optional
        Where the data files are; default: `SVD_NUMPY_DATA`, then the user's cache, then a download.
    run_dir : path, optional
        Folder for log, checkpoints, network and pictures; without it nothing is written.
    resume : bool
        Continue the run in `run_dir`, bit for bit as if it had never stopped.
    extend : int
        Train so many epochs more than the recipe (or `epochs`) says, at the end of the last stage. With `resume`, a run
        that has finished goes on; see `TrainConfig.extended` for the learning rate.
    remove_above : float, optional
        Weights whose log_alpha is above it leave for good at the end of an epoch, which makes training faster
        (`TrainConfig.remove_above`). None takes the recipe's, infinity removes none before the fine-tuning.
    sparsity : float, optional
        Share of weights that are 0 at the end, for methods that prune by magnitude; None takes that of the method.
    finetune_bits : int, optional
        Fine-tune with weights and biases rounded to so many bits, 2 to 24, sign included: the network then fits in a
        small file (`save_packed`). None does not round.
    held_out : float
        Share of the training images, 0 to 0.5, that the training does not see and whose error and NLL every record
        reports (`valid_error`, `valid_nll`): what choices should be made by.
    changes : mapping, optional
        Numbers that replace those of the recipe, by name: fields of `TrainConfig`, such as {"lr": 3e-4}.
    progress : bool
        Show a bar (in a terminal or a notebook) or a line per epoch (elsewhere).
    eval_every : int
        Measure the test error every so many epochs, for the curve (0: only at the end). It decides nothing.
    callbacks : functions (trainer, record)
        Called after each epoch.
    log : some of "tensorboard", "mlflow"
        Show the run in these tools, too (`TensorBoardLog`, `MlflowLog`); needs a `run_dir`.
    shards : int
        Cut every batch into so many parts, a power of two, whose gradients are added in a fixed order
        (`TrainConfig.shards`).
    ranks : Ranks
        The processes that share the shards (`svd_numpy.join_ranks`); each has to make the same call, with one seed and
        one KL weight. Their number does not change a bit.

    Returns
    -------
    TrainResult; TrainResults if there are several KL weights, or `seeds`
        `TrainResults` is a sequence of `TrainResult`, by KL weight and then by seed; it prints as a table with mean ±
        standard deviation.

    Raises
    ------
    SvdValueError, SvdTypeError
        For arguments that make no sense, before anything is read or written; `DataError` if the data are not available.
    """
    chosen = get_method(method, kind)
    plan = chosen.adapt(get_recipe(check_choice("arch", arch, ARCHS), recipe))
    options = Options(
        dataset=dataset, arch=arch, recipe=recipe, method=method, kind=kind, epochs=epochs, batch_size=batch_size,
        seed=seed, random_labels=random_labels, init_from=init_from, backend=backend, data_dir=data_dir,
        run_dir=run_dir, resume=resume, extend=extend, remove_above=remove_above, sparsity=sparsity,
        finetune_bits=finetune_bits, held_out=held_out, changes=changes, progress=progress, eval_every=eval_every,
        callbacks=callbacks, log=log, shards=shards, ranks=ranks,
    )  # fmt: skip
    each = options_of_each(options, seeds, kl_weight)
    config = plan.config
    if options.kind != "variational" and method == DEFAULT:  # nothing to prune
        config = replace(config, finetune_epochs=0, remove_above=None)
    configs = [configure(config, own) for own in each]
    images = load_for_each(each)
    if note := note_on_size(plan, configs[0], len(images[0].x_train)):
        images = [replace(data, warning=f"{data.warning} {note}".strip()) for data in images]
        if options.progress:
            say(f"NOTE: {note}")
    jobs = [(begin(own, data), config, own) for own, data, config in zip(each, images, configs, strict=True)]
    return one_or_all(run_all(jobs, options), options, seeds, kl_weight)
