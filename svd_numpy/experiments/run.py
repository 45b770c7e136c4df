"""What the experiments share: their arguments, checked; their data; and one run, with all it leaves in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_callbacks, check_count, check_flag, check_number, check_path
from svd_numpy.data import Dataset, load
from svd_numpy.experiments.recipes import stretch
from svd_numpy.experiments.result import TrainResult, pruning_threshold
from svd_numpy.experiments.run_files import load_log_alphas, save_log_alphas
from svd_numpy.kernels import priors, resolve_backend
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import log_alpha, measure_sparsity
from svd_numpy.plots.animate import FrameRecorder
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.console import TrainingInterrupted
from svd_numpy.train.loop import Callback, Run, fit_together, side_by_side
from svd_numpy.train.trainer import Record, Trainer

Start = Sequential | Mapping[str, Any] | str | Path | None
_LABELS = 2017  # sets the random labels apart from what else is drawn from the same seed


@dataclass(frozen=True)
class Options:
    """The arguments that every experiment takes."""

    seed: int
    backend: str
    run_dir: Path | None
    resume: bool
    progress: bool
    eval_every: int
    callbacks: list[Callback]
    kl_weight: float = 1.0


def check_options(
    seed: Any, backend: str, run_dir: Any, resume: Any, progress: Any, eval_every: Any, callbacks: Sequence[Callback]
) -> Options:
    """Check what every experiment takes; raises ValueError or TypeError."""
    folder = check_path("run_dir", run_dir)
    if check_flag("resume", resume) and folder is None:
        raise SvdValueError("resume=True needs run_dir, the folder of the run to continue")
    return Options(
        check_count("seed", seed, low=0),
        resolve_backend(backend),
        folder,
        bool(resume),
        check_flag("progress", progress),
        check_count("eval_every", eval_every, low=0),
        check_callbacks(callbacks),
    )


def check_kl_weight(value: Any, kind: str) -> float:
    """Check the factor on the KL, which only a network with a KL can have."""
    kl_weight = check_number("kl_weight", value, low=0, high=1000)
    if kind != "variational" and kl_weight != 1:
        raise SvdValueError(f"kl_weight: got {kl_weight:g}, but kind {kind!r} has no KL; leave it out")
    return kl_weight


def configure(config: TrainConfig, epochs: int | None, batch_size: int | None, options: Options) -> TrainConfig:
    """Put the arguments of an experiment in the place of its recipe's numbers."""
    config = config if epochs is None else stretch(config, epochs)
    batch_size = config.batch_size if batch_size is None else check_count("batch_size", batch_size)
    return replace(
        config, batch_size=batch_size, seed=options.seed, eval_every=options.eval_every, kl_weight=options.kl_weight
    )


def load_images(dataset: str, data_dir: str | Path | None, with_random_labels: bool, options: Options) -> Dataset:
    """Load a data set of images with labels, and show its warning."""
    return load_for_each(dataset, data_dir, with_random_labels, [options])[0]


def load_for_each(
    dataset: str, data_dir: str | Path | None, with_random_labels: bool, each: Sequence[Options]
) -> list[Dataset]:
    """Do `load_images` for several runs: the same images; labels are each seed's own where they are random."""
    with_random_labels = check_flag("random_labels", with_random_labels)
    data = load(dataset, data_dir)
    if data.image_shape is None or data.n_classes == 0:
        raise SvdValueError(
            f"dataset: got {dataset!r}, expected images with labels: auto, mnist, fashion-mnist or digits"
        )
    labelled = [random_labels(data, options.seed) if with_random_labels else data for options in each]
    if labelled[0].warning and each[0].progress:
        print(f"NOTE: {labelled[0].warning}")
    return labelled


def random_labels(data: Dataset, seed: int) -> Dataset:
    """Replace the training labels by uniform random ones (Zhang et al. 2017); the test labels stay.

    The name of the data set says so, and it is never compared with a published row.
    """
    labels = np.random.default_rng([seed, _LABELS]).integers(0, data.n_classes, len(data.y_train))
    note = "The training labels are random: there is nothing to learn but the images themselves."
    name, warning = f"{data.name}, random labels", f"{data.warning} {note}".strip()
    return replace(data, name=name, y_train=labels.astype(np.int64), warning=warning)


def start_from(model: Sequential, init_from: Start) -> None:
    """Take the first weights from where the user said."""
    if init_from is not None:
        model.init_from(Sequential.load(init_from) if isinstance(init_from, str | Path) else init_from)


def run(result: TrainResult, config: TrainConfig, options: Options) -> TrainResult:
    """Train the network of a result that has no history yet; return the result, saved where there is a run_dir."""
    return run_all([(result, config, options)], options)[0]


def run_all(jobs: Sequence[tuple[TrainResult, TrainConfig, Options]], options: Options) -> list[TrainResult]:
    """Do `run` several times, side by side where the backend can, else one after the other.

    A group that ends is saved before the next one begins. If training is interrupted, the error names the run_dir in
    `options`, where all of it can be gone on with.
    """
    prepared = [_prepare(*job) for job in jobs]
    finish, done = {id(run): end for run, end in prepared}, dict[int, TrainResult]()
    try:
        for group in side_by_side([run for run, _ in prepared]):
            for run, history in zip(group, fit_together(group, options.progress), strict=True):
                done[id(run)] = finish[id(run)](history)
    except TrainingInterrupted as stop:
        raise TrainingInterrupted(stop.number, options.run_dir) from None
    return [done[id(run)] for run, _ in prepared]


def _prepare(
    result: TrainResult, config: TrainConfig, options: Options
) -> tuple[Run, Callable[[list[Record]], TrainResult]]:
    """Make the run, with all that is kept along the way, and what makes its result of its history."""
    model, data, folder = result.model, result.data, options.run_dir
    hooks = list(options.callbacks)
    if model.variational_layers:
        assert data.image_shape is not None
        if folder is not None:
            hooks.append(record_frames(folder, model, data.image_shape, config, options.resume))
        log_alphas, keep_them = keep_log_alphas(config, folder)
        hooks.append(keep_them)
        result = replace(result, log_alphas=log_alphas)

    def finish(history: list[Record]) -> TrainResult:
        finished = replace(result, history=history)
        if folder is not None:
            finished.save(folder)
        return finished

    return Run(model, data, config, hooks, folder, options.resume), finish


def keep_log_alphas(config: TrainConfig, run_dir: Path | None) -> tuple[dict[str, Any], Callback]:
    """Make a callback that keeps log_alpha after the last variational epoch, before fine-tuning wipes it out."""
    kept: dict[str, Any] = {}
    path = None if run_dir is None else run_dir / "log_alpha.npz"
    if path is not None and path.is_file():  # a resumed run may be past that epoch
        kept.update(load_log_alphas(path)[0])

    def keep(trainer: Trainer, entry: Record) -> None:
        if entry["epoch"] == config.epochs:
            kept.update(log_alpha(trainer.model))
            if path is not None:
                save_log_alphas(path, kept, pruning_threshold(trainer.model, config))

    return kept, keep


def record_frames(
    run_dir: Path, model: Sequential, image_shape: tuple[int, ...], config: TrainConfig, resume: bool
) -> Callback:
    """Make a callback that keeps pictures of the first layer, about 60 over the run, in `frames.npz`."""
    path = run_dir / "frames.npz"
    frames: list[FrameRecorder] = []  # made on the first epoch, when it is known where a resumed run goes on
    every = max(1, config.total_epochs // 60)
    first = model.variational_layers[0]
    shape = first.fields(first.theta, image_shape)[1]

    def record(trainer: Trainer, entry: Record) -> None:
        if not frames:
            old = FrameRecorder.load(path) if resume and path.exists() else FrameRecorder(shape)
            old.drop_after(entry["epoch"] - 1)
            frames.append(old)
        if entry["epoch"] % every and not trainer.done:
            return
        alpha, overall = priors.log_alpha(first.theta, first.log_sigma2), measure_sparsity(model).overall
        theta, alpha = (first.fields(array, image_shape)[0] for array in (first.theta, alpha))
        frames[0].add(entry["epoch"], theta, alpha, model.threshold, entry["test_error"], overall)
        frames[0].save(path)

    return record
