"""Shared by the experiments on images: loading the data, and one run with everything that it writes to its folder."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, check_count
from svd_numpy.data import Dataset, load
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.methods import METHODS
from svd_numpy.experiments.options import Options
from svd_numpy.experiments.recipes import get_recipe, stretch
from svd_numpy.experiments.result import FILES, TrainResult, pruning_threshold
from svd_numpy.experiments.run_files import has_result, load_bits, load_log_alphas, save_log_alphas, save_or_say
from svd_numpy.kernels import priors
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import log_alpha, measure_sparsity
from svd_numpy.plots.animate import FrameRecorder
from svd_numpy.sparse.storage.precision import posterior_bits
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.console import TrainingInterrupted, say
from svd_numpy.train.loop import Callback, Run, fit_together, side_by_side
from svd_numpy.train.trackers import trackers
from svd_numpy.train.trainer import Record, Trainer

Job = tuple[TrainResult, TrainConfig, Options]
_LABELS = 2017  # keeps the random labels independent of everything else that is drawn from the same seed


def configure(config: TrainConfig, options: Options) -> TrainConfig:
    """Replace numbers of a recipe with those given in the options, and add the epochs that extend it."""
    config = config if options.epochs is None else stretch(config, options.epochs)
    batch_size = config.batch_size if options.batch_size is None else check_count("batch_size", options.batch_size)
    config = replace(
        config, batch_size=batch_size, seed=options.seed, eval_every=options.eval_every, kl_weight=options.kl_weight,
        shards=options.shards,
    )  # fmt: skip
    if options.random_labels:
        config = replace(config, shift=0, mirror=False)  # an image that never comes back cannot be learned by heart
    config = replace(config, **(options.changes or {}))
    if options.remove_above is not None:
        config = replace(config, remove_above=None if options.remove_above == math.inf else options.remove_above)
    if options.sparsity is not None:
        if config.pruning is None:
            raise SvdValueError(
                f"sparsity: got {options.sparsity}, but method {options.method!r} cannot be told one; leave it out, or "
                "take a method such as 'gradual-magnitude'"
            )
        config = replace(config, pruning=config.pruning.ending_at(options.sparsity))
    if options.finetune_bits is not None:
        config = replace(config, finetune_bits=options.finetune_bits)
    return config.extended(options.extend)


def load_for_each(each: Sequence[Options]) -> list[Dataset]:
    """Load the images of several runs, and show their warning; the images are shared, random labels are not.

    Raises
    ------
    SvdValueError
        For an unknown data set, or a table; `DataError` if it is not available.
    """
    first = each[0]
    data = load(first.dataset, first.data_dir)
    if data.image_shape is None or data.n_classes == 0:
        raise SvdValueError(
            f"dataset: got {first.dataset!r}, expected images with labels, such as auto, mnist, fashion-mnist or digits"
        )
    if first.held_out:
        data = data.split(max(1, round(first.held_out * len(data.y_train))))
    labelled = [random_labels(data, options.seed) if options.random_labels else data for options in each]
    if labelled[0].warning and first.progress:
        say(f"NOTE: {labelled[0].warning}")
    return labelled


def random_labels(data: Dataset, seed: int) -> Dataset:
    """Replace the training labels with uniform random ones (Zhang et al. 2017); the others stay as they are.

    The name of the data set says so, which keeps it from being compared with a published row.
    """
    labels = np.random.default_rng([seed, _LABELS]).integers(0, data.n_classes, len(data.y_train))
    note = "The training labels are random: there is nothing to learn but the images themselves."
    name, warning = f"{data.name}, random labels", f"{data.warning} {note}".strip()
    return replace(data, name=name, y_train=labels.astype(np.int64), warning=warning)


def begin(options: Options, data: Dataset, pretrained: TrainResult | None = None) -> TrainResult:
    """Make the network that the options describe, with its initial weights: a result without a history.

    Parameters
    ----------
    options : Options
    data : Dataset
    pretrained : TrainResult, optional
        Result whose network provides the initial weights.
    """
    plan = METHODS[options.method].adapt(get_recipe(options.arch, options.recipe))
    model = build(data, plan, options.seed, options.backend, options.kind, options.width)
    start = options.init_from if pretrained is None else pretrained.model
    if start is not None:
        model.init_from(Sequential.load(start) if isinstance(start, str | Path) else start)
    return TrainResult(
        model, [], plan, data, {}, method=options.method, kind=options.kind, width=options.width, pretrained=pretrained,
        init_from=options.init_from is not None, kl_weight=options.kl_weight,
    )  # fmt: skip


def run(result: TrainResult, config: TrainConfig, options: Options) -> TrainResult:
    """Train the network of a result without a history; return the full result, saved if there is a run_dir."""
    return run_all([(result, config, options)], options)[0]


def run_all(jobs: Sequence[Job], options: Options) -> list[TrainResult]:
    """Call `run` for several jobs, side by side if the backend can, otherwise one after the other.

    The results of one group are saved before the next group begins.

    Parameters
    ----------
    jobs : sequence of (TrainResult, TrainConfig, Options)
    options : Options
        Those of the caller, for all jobs: if training is interrupted, the error names their run_dir.
    """
    prepared, done = list[tuple[Run, Callable[[list[Record]], TrainResult]]](), dict[int, TrainResult]()
    try:
        for job in jobs:
            prepared.append(_prepare(*job))
        finish = {id(run): end for run, end in prepared}
        for group in side_by_side([run for run, _ in prepared]):
            for run, history in zip(group, fit_together(group, options.progress), strict=True):
                done[id(run)] = finish[id(run)](history)
    except TrainingInterrupted as stop:
        raise TrainingInterrupted(stop.number, options.folder) from None
    finally:
        for run, _ in prepared:
            run.release()
    return [done[id(run)] for run, _ in prepared]


def _prepare(
    result: TrainResult, config: TrainConfig, options: Options
) -> tuple[Run, Callable[[list[Record]], TrainResult]]:
    """Make a run that records what its figures need, and the function that turns its history into its result."""
    model, data, folder = result.model, result.data, options.folder
    hooks: list[Callback] = [*options.callbacks, *trackers(options.log, folder)]
    if model.variational_layers:
        assert data.image_shape is not None
        if folder is not None:
            hooks.append(record_frames(folder, model, data.image_shape, config, options.resume))
        log_alphas, bits, keep_them = keep_posterior(config, folder)
        hooks.append(keep_them)
        result = replace(result, log_alphas=log_alphas, bits=bits)

    run = Run(model, data, config, hooks, folder, options.resume, options.ranks)
    complete = has_result(run, FILES)

    def finish(history: list[Record]) -> TrainResult:
        finished = replace(result, history=history)
        if folder is not None and not complete:  # what is only read back may be in a folder that cannot be written to
            save_or_say(finished, folder)
        return finished

    return run, finish


@contextlib.contextmanager
def pictures_may_fail(path: Path) -> Iterator[None]:
    """Warn where a file that only pictures need cannot be used, and go on: it is not worth a run."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{path.name}: pictures of this run will lack something: {error}", stacklevel=3)


def keep_posterior(
    config: TrainConfig, run_dir: Path | None
) -> tuple[dict[str, NDArray[Any]], dict[str, int], Callback]:
    """Make a callback for the last variational epoch: fine-tuning would overwrite log_alpha and the bits of weights."""
    kept, bits = dict[str, NDArray[Any]](), dict[str, int]()
    path = None if run_dir is None else run_dir / "log_alpha.npz"
    if path is not None and path.is_file():  # a resumed run may already be past that epoch
        with pictures_may_fail(path):
            kept.update(load_log_alphas(path)[0])
            bits.update(load_bits(path))

    def keep(trainer: Trainer, entry: Record) -> None:
        if entry["epoch"] == config.epochs:
            threshold = pruning_threshold(trainer.model, config)
            kept.update(log_alpha(trainer.model))
            with contextlib.suppress(SvdValueError):  # weights without any noise: nothing says how precise they are
                bits.update(posterior_bits(trainer.model, threshold))
            if path is not None:
                with pictures_may_fail(path):
                    save_log_alphas(path, kept, threshold, bits)

    return kept, bits, keep


def record_frames(
    run_dir: Path, model: Sequential, image_shape: tuple[int, ...], config: TrainConfig, resume: bool
) -> Callback:
    """Make a callback that writes pictures of the first layer, at most 60 or so in a run, to `frames.npz`."""
    path = run_dir / "frames.npz"
    frames: list[FrameRecorder] = []  # filled in the first epoch, which tells where a resumed run continues
    lost: list[Path] = []  # the file, once it has failed: it is said once, and no frame is recorded any more
    every = math.ceil(config.total_epochs / 60)  # each picture writes all those before it again
    first = model.variational_layers[0]
    shape = first.fields(first.theta, image_shape)[1]

    def record(trainer: Trainer, entry: Record) -> None:
        if not frames:
            frames.append(FrameRecorder(shape))
            if resume and path.exists():
                with pictures_may_fail(path):
                    frames[0] = FrameRecorder.load(path)
                    frames[0].drop_after(entry["epoch"] - 1)
        if entry["epoch"] % every and not trainer.done:
            return
        alpha, overall = priors.log_alpha(first.theta, first.log_sigma2), measure_sparsity(model).overall
        theta, alpha = (first.fields(array, image_shape)[0] for array in (first.theta, alpha))
        if lost:
            return
        lost.append(path)
        with pictures_may_fail(path):
            frames[0].add(entry["epoch"], theta, alpha, model.threshold, entry["test_error"], overall)
            frames[0].save(path)
            lost.clear()

    return record
