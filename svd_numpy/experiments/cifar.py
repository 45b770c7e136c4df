"""`train_cifar`: a VGG-like network on small colour images, pre-trained with dropout, then made sparse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, overload

from svd_numpy.checks import SvdValueError, check_choice, check_count
from svd_numpy.experiments.methods import DEFAULT, METHODS, get_method
from svd_numpy.experiments.options import Keywords, Options, Start
from svd_numpy.experiments.recipes import Recipe, get_recipe
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run import begin, configure, load_for_each, run_all
from svd_numpy.experiments.series import PRETRAINING, TrainResults, begun, one_or_all, options_of_each
from svd_numpy.files import checkpoint
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.loop import Callback
from svd_numpy.train.ranks import ALONE, Ranks

_ARCHS = ("vgg-like",)
_DATASETS = ("cifar10", "cifar100")


class CifarKeywords(Keywords, total=False):
    """Keywords of `train_cifar`, see `Keywords`."""

    width: float
    pretrain_epochs: int | None


@overload
def train_cifar(*, kl_weight: float = ..., seeds: None = ..., **options: Unpack[CifarKeywords]) -> TrainResult: ...
@overload
def train_cifar(
    *, kl_weight: Iterable[float], seeds: Iterable[int] | None = ..., **options: Unpack[CifarKeywords]
) -> TrainResults: ...
@overload
def train_cifar(*, kl_weight: float = ..., seeds: Iterable[int], **options: Unpack[CifarKeywords]) -> TrainResults: ...
def train_cifar(
    *,
    dataset: str = "cifar10",
    arch: str = "vgg-like",
    width: float = 1.0,
    recipe: str = "default",
    method: str = DEFAULT,
    kind: str = "variational",
    epochs: int | None = None,
    pretrain_epochs: int | None = None,
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
    """Train a convolutional network that sparsifies itself (Molchanov, Ashukha, Vetrov, ICML 2017, §5).

    There are two stages: first the network with ordinary weights and Bernoulli dropout, then Sparse VD starting from
    those weights, which ends with fine-tuning if the recipe says so. The baseline networks have one stage.

    Parameters
    ----------
    dataset : "cifar10" or "cifar100"
    arch : "vgg-like"
        13 convolutions of 3 x 3 and two dense layers, batch-normalised.
    width : float
        Factor on the numbers of filters and units, 0.01 to 16; at 1 the first layers have 64 and the last ones 512.
    recipe : "default" or "paper"
        Our own numbers or the authors' (`svd_numpy.experiments.recipes`).
    method : "sparse-vd", or another of `svd_numpy.experiments.methods.METHODS`
        How the network is made small. Methods with ordinary weights have one stage, with or without gates.
    kind : "variational", "dense", "dropout" or "gaussian-dropout"
        Sparse VD; or, as a baseline, the same network with ordinary weights, without or with dropout, trained like the
        first stage.
    epochs : int, optional
        Variational epochs, instead of the recipe's; its schedules and its fine-tuning are stretched to match. If `kind`
        is not "variational", the default is as many epochs as both stages would take together.
    pretrain_epochs : int, optional
        Epochs of the first stage, instead of the recipe's. With 0, Sparse VD starts from random weights.
    batch_size : int, optional
        Images per step in both stages, instead of the recipe's.
    kl_weight : number, or several
        Factor on the KL schedule of the recipe, 0 to 1000: a larger one makes a sparser network. With several, there is
        a run for each (and each seed), which pre-trains its own network; to share one, give `init_from`.
    seed : int
        Seed of initial weights, order of examples, their shifts, dropout and noise.
    seeds : whole numbers, optional
        Instead of `seed`: a run for each of these. The backend "cuda" does several runs in the same launches, "numba"
        and "numpy" one after the other; each run gives the same bits as on its own. With a run_dir, each has a folder
        in it: `seed-N`, `kl-W`, or `kl-W-seed-N`.
    random_labels : bool
        Replace the training labels with random ones, drawn from the seed, in both stages (Molchanov et al. 2017, §5). A
        network that still reaches a low training error (`history[-1]["train_error"]`) has memorised the images, which
        are not shifted or mirrored then.
    init_from : Sequential, mapping of arrays, or path of a saved model, optional
        Start from these weights, without pre-training.
    backend : "auto", "cuda", "numba" or "numpy"
    data_dir : path, optional
        Where the data files are; default: `SVD_NUMPY_DATA`, then the user's cache.
    run_dir : path, optional
        Folder for log, checkpoints, network and pictures, with those of the first stage in `pretrain`; without it
        nothing is written.
    resume : bool
        Continue the run in `run_dir`, in the stage in which it stopped, bit for bit as if it had never stopped.
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
        Measure the test error every so many epochs, for the curve (0: only at the end of each stage). It decides
        nothing.
    callbacks : functions (trainer, record)
        Called after each epoch of both stages.
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
        `TrainResult.pretrained` is the result of the first stage. `TrainResults` is a sequence of them, by KL weight
        and then by seed; it prints as a table with mean ± standard deviation.

    Raises
    ------
    SvdValueError, SvdTypeError
        For arguments that make no sense, before anything is written; `DataError` if the data are not available.
    """
    get_method(method, kind)
    plan = get_recipe(check_choice("arch", arch, _ARCHS), recipe)
    options = Options(
        dataset=check_choice("dataset", dataset, _DATASETS), arch=arch, width=width, recipe=recipe,
        method=method, kind=kind, epochs=epochs, batch_size=batch_size, seed=seed, random_labels=random_labels,
        init_from=init_from, backend=backend, data_dir=data_dir, run_dir=run_dir, resume=resume, extend=extend,
        remove_above=remove_above, sparsity=sparsity, finetune_bits=finetune_bits, held_out=held_out,
        changes=changes, progress=progress, eval_every=eval_every, callbacks=callbacks, log=log,
        shards=shards, ranks=ranks,
    )  # fmt: skip
    each = options_of_each(options, seeds, kl_weight)
    pretrains = _pretrains(options, pretrain_epochs)
    configs = [_configure(plan, own) for own in each]
    started = ranks.tell([_second_stage_begun(own, pretrains) for own in each])
    images = load_for_each(each)
    if (n := len(images[0].x_train)) % (batch := configs[0].batch_size) == 1:
        raise SvdValueError(
            f"batch_size: got {batch}, which leaves one of {n} images over, and a single image cannot be "
            "batch-normalised; choose another batch_size"
        )
    pretrained: list[TrainResult | None] = [None] * len(each)
    if pretrains:
        first = [_first_stage(own, pretrain_epochs) for own in each]
        jobs = [
            (begin(own, data), configure(_pretraining(plan), own), own)
            for own, data in zip(first, images, strict=True)
        ]  # fmt: skip
        pretrained = [*run_all(jobs, options)]
    second = [replace(own, resume=resumes) for own, resumes in zip(each, started, strict=True)]
    jobs = [
        (begin(own, data, before), config, own)
        for own, data, before, config in zip(second, images, pretrained, configs, strict=True)
    ]
    return one_or_all(run_all(jobs, options), options, seeds, kl_weight)


def _pretrains(options: Options, epochs: int | None) -> bool:
    """Whether there is a first stage; raise if arguments contradict one another."""
    if options.kind != "variational":
        if epochs:
            raise SvdValueError(f"pretrain_epochs: got {epochs}, but {options.network} has one stage; give only epochs")
        return False
    if epochs is not None and check_count("pretrain_epochs", epochs, low=0) and options.init_from is not None:
        raise SvdValueError(f"pretrain_epochs: got {epochs} and init_from, which replaces it; leave one of them out")
    return epochs != 0 and options.init_from is None


def _pretraining(plan: Recipe) -> TrainConfig:
    assert plan.pretrain is not None  # as in every recipe of these architectures
    return plan.pretrain


def _first_stage(options: Options, epochs: int | None) -> Options:
    """Return the options of the first stage of a run."""
    folder = None if options.run_dir is None else Path(options.run_dir) / PRETRAINING
    own = replace(
        options, method=DEFAULT, kind="dropout", kl_weight=1.0, remove_above=None, sparsity=None, finetune_bits=None,
        changes=None,
    )  # fmt: skip
    return replace(own, epochs=epochs, extend=0, run_dir=folder)


def _configure(plan: Recipe, options: Options) -> TrainConfig:
    """Return the settings of the second stage, or of the only one."""
    if options.kind == "variational" or options.method != DEFAULT:
        return configure(METHODS[options.method].adapt(plan).config, options)
    both = _pretraining(plan).total_epochs + plan.config.total_epochs
    return configure(_pretraining(plan), options if options.epochs is not None else replace(options, epochs=both))


def _second_stage_begun(options: Options, pretrains: bool) -> bool:
    """Whether the second stage has begun in the run's folder; raise if the folder does not fit the options."""
    folder = options.folder
    if folder is None:
        return False
    if not options.resume and begun(folder):
        raise SvdValueError(f"run_dir {folder} holds a run already; choose another one, or resume=True to continue it")
    if options.resume and not begun(folder):
        raise SvdValueError(f"resume: {folder} holds no run to continue; correct run_dir, or leave resume out")
    pretrained = checkpoint.latest(folder / PRETRAINING / "checkpoints") is not None
    if options.resume and pretrained != pretrains:
        began, wanted = ("with" if there else "without" for there in (pretrained, pretrains))
        raise SvdValueError(
            f"resume: the run in {folder} began {began} pre-training, but this call asks for one {wanted} it; "
            "give pretrain_epochs and init_from as before, or another run_dir"
        )
    return checkpoint.latest(folder / "checkpoints") is not None
