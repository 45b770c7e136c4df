"""`train_mnist`: the main job, a sparse LeNet from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svd_numpy import priors
from svd_numpy.animate import FrameRecorder
from svd_numpy.checks import check_callbacks, check_count, check_flag, check_path
from svd_numpy.data import load
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import get_recipe, stretch
from svd_numpy.experiments.result import TrainResult, pruning_threshold
from svd_numpy.kernels import resolve_backend
from svd_numpy.model import Sequential
from svd_numpy.run_files import load_log_alphas, save_log_alphas
from svd_numpy.sparsity import log_alpha, measure_sparsity
from svd_numpy.train import Callback, Record, TrainConfig, Trainer, fit


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
    init_from: Sequential | Mapping[str, Any] | str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
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
    backend : "auto", "numba" or "numpy"
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
    callbacks : functions (trainer, record), called after each epoch

    Returns
    -------
    TrainResult

    Raises
    ------
    ValueError, TypeError
        For arguments that make no sense, before anything is read or written; `DataError` where data cannot
        be had.
    """
    plan = get_recipe(arch, recipe)
    config = plan.config if epochs is None else stretch(plan.config, epochs)
    batch_size = config.batch_size if batch_size is None else check_count("batch_size", batch_size)
    seed = check_count("seed", seed, low=0)
    config = replace(config, batch_size=batch_size, seed=seed, eval_every=eval_every)
    backend = resolve_backend(backend)
    hooks, folder = check_callbacks(callbacks), check_path("run_dir", run_dir)
    check_flag("progress", progress)
    if check_flag("resume", resume) and folder is None:
        raise ValueError("resume=True needs run_dir, the folder of the run to continue")
    data = load(dataset, data_dir)
    if data.image_shape is None or data.n_classes == 0:
        raise ValueError(f"dataset: got {dataset!r}, expected images with labels: auto, mnist, fashion-mnist or digits")
    if data.warning and progress:
        print(f"NOTE: {data.warning}")
    model = build(data, plan, seed, backend)
    if init_from is not None:
        model.init_from(Sequential.load(init_from) if isinstance(init_from, str | Path) else init_from)
    if folder is not None:
        hooks.append(record_frames(folder, model, data.image_shape, config, resume))
    log_alphas, keep_them = keep_log_alphas(config, folder)
    hooks.append(keep_them)
    history = fit(model, data, config, hooks, folder, resume, progress)
    result = TrainResult(model, history, plan, data, log_alphas)
    if folder is not None:
        result.save(folder)
    return result


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
        error = entry["test_error"] if entry["test_error"] is not None else entry["train_error"]
        alpha, overall = priors.log_alpha(first.theta, first.log_sigma2), measure_sparsity(model).overall
        theta, alpha = (first.fields(array, image_shape)[0] for array in (first.theta, alpha))
        frames[0].add(entry["epoch"], theta, alpha, model.threshold, error, overall)
        frames[0].save(path)

    return record
