"""Read what a run left in its folder: its data set, its epochs as a table, its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import MOST_BITS, SvdValueError
from svd_numpy.files.atomic import loads_strict
from svd_numpy.files.npz import read_npz, write_npz
from svd_numpy.train.console import say

if TYPE_CHECKING:
    from svd_numpy.network.model import Sequential
    from svd_numpy.plots.frames import FrameRecorder
    from svd_numpy.train.loop import Run

_LAYER = "log_alpha."  # before the name of a layer, which may be any word


def need(path: Path) -> Path:
    """Return the path of a run's file; raise a SvdValueError if it does not exist."""
    if not path.is_file():
        raise SvdValueError(f"{path} is not there; expected the folder of a run made by `svd-numpy train`")
    return path


def has_result(run: Run, files: Sequence[str]) -> bool:
    """Whether a run was finished before, with all files of its result: then it is only read back."""
    folder = run.folder
    return run.trainer.done and folder is not None and all((Path(folder) / name).is_file() for name in files)


def save_or_say(result: Any, folder: Path) -> None:
    """Save a result; print it where that fails, since hours of training should at least show it."""
    try:
        result.save(folder)
    except OSError:
        say(result)
        raise


def load_frames(path: Path) -> FrameRecorder:
    """Read the frames of a run."""
    from svd_numpy.plots.frames import FrameRecorder

    return FrameRecorder.load(need(path))


def recorded_dataset(folder: Path) -> str:
    """Name of the data set of the run in this folder; "auto" if the run is not finished."""
    name = str(read_result(folder).get("dataset", "auto"))
    return name.partition(",")[0]  # "mnist, random labels": its test labels are those of "mnist"


def read_result(folder: Path) -> dict[str, Any]:
    """Read the result.json of a run; {} if the run is not finished."""
    file = folder / "result.json"
    if not file.is_file():
        return {}
    try:
        result = loads_strict(file.read_bytes())
    except ValueError as error:
        raise SvdValueError(f"{file} is damaged ({error}); restore it from a copy, or delete it") from error
    if not isinstance(result, dict):
        raise SvdValueError(f"{file} holds no result of a run; restore it from a copy, or delete it")
    return result


def epoch_table(history: Sequence[dict[str, Any]]) -> str:
    """Format records of metrics.jsonl as a table."""
    form = "{:>5}{:>13}{:>9}{:>9}{:>9}{:>8}{:>10}{:>13}".format
    lines = [form("epoch", "stage", "seconds", "nll", "train %", "test %", "sparse %", "compression")]
    for record in history:
        test, total = record["test_error"], record["compression"]
        lines.append(
            form(
                record["epoch"],
                record["stage"],
                f"{record['seconds']:.1f}",
                f"{record['nll']:.4f}",
                f"{100 * record['train_error']:.2f}",
                "" if test is None else f"{100 * test:.2f}",
                f"{100 * (1 - 1 / total):.1f}",
                f"{total:.1f}x",
            )
        )
    return "\n".join(lines)


def save_log_alphas(
    path: Path, log_alphas: Mapping[str, NDArray[Any]], threshold: float, bits: Mapping[str, int] | None = None
) -> None:
    """Save what fine-tuning overwrites: log_alpha of every layer, the threshold that prunes by it, and bits."""
    halves = {f"{_LAYER}{name}": values.astype(np.float16) for name, values in log_alphas.items()}
    widths = [(bits or {}).get(f"{name}.theta", 0) for name in log_alphas]
    numbers: dict[str, NDArray[Any]] = {
        "threshold": np.array(threshold, np.float64),
        "bits": np.array(widths, np.uint8),
    }
    write_npz(path, {**numbers, **halves})


def load_log_alphas(path: Path) -> tuple[dict[str, NDArray[Any]], float]:
    """Read what `save_log_alphas` wrote: {layer name: array}, threshold."""
    return _load_posterior(path)[:2]


def load_bits(path: Path) -> dict[str, int]:
    """Read the bits that `save_log_alphas` wrote, by array name; layers that have none are left out."""
    log_alphas, _, widths = _load_posterior(path)
    return {f"{name}.theta": int(width) for name, width in zip(log_alphas, widths, strict=True) if width}


def _load_posterior(path: Path) -> tuple[dict[str, NDArray[Any]], float, NDArray[Any]]:
    arrays = read_npz(need(path), ["threshold", "bits"])
    threshold, widths = arrays.pop("threshold"), arrays.pop("bits")
    sound = threshold.dtype == np.float64 and threshold.shape == () and widths.dtype == np.uint8
    layers = (name.startswith(_LAYER) and values.dtype == np.float16 for name, values in arrays.items())
    sound = sound and all(layers) and not any(np.isnan(values).any() for values in (threshold, *arrays.values()))
    if not sound or widths.shape != (len(arrays),) or (widths > MOST_BITS).any() or abs(threshold) > 60:
        raise SvdValueError(
            f"{path} lacks layers, or holds what no run wrote; restore it from a copy, or delete it and do without it"
        )
    return {name.removeprefix(_LAYER): values for name, values in arrays.items()}, float(threshold), widths


def run_figures(
    run_dir: Path, history: list[dict[str, Any]], find_image: Callable[[], NDArray[Any] | None] = lambda: None
) -> dict[str, Any]:
    """Draw all figures for which the run has written the files.

    Parameters
    ----------
    run_dir : Path
    history : list of dict
        The records of its metrics.jsonl.
    find_image : function () -> array (D,) or None, optional
        Finds an image of the run's data set for the feature maps; called only if there are convolutions.

    Returns
    -------
    dict of str to matplotlib Figure
        "training_curves", and "log_alpha" as it was after the last variational epoch. A finished run also has those of
        `figures.network_figures`, or of `text_figures`, and, if its first layer is dense and reads images,
        "receptive_fields" and "pixel_importance".
    """
    from svd_numpy import plots
    from svd_numpy.experiments.text_figures import text_figures
    from svd_numpy.network.model import Sequential
    from svd_numpy.plots.figures import network_figures
    from svd_numpy.sparse.recurrent import is_recurrent

    figures: dict[str, Any] = {"training_curves": plots.training_curves(history)}
    file, alphas = run_dir / "model.safetensors", run_dir / "log_alpha.npz"
    log_alphas, threshold = load_log_alphas(alphas) if alphas.is_file() else ({}, math.nan)
    if log_alphas:
        figures["log_alpha"] = plots.log_alpha_histogram(log_alphas, threshold)
    if not file.is_file():
        return figures  # the network is written only when a run has finished
    model = Sequential.load(file)
    if is_recurrent(model):
        return figures | {name: draw() for name, draw in text_figures(model, history).items()}
    frames = run_dir / "frames.npz"
    if not model.variational_layers:
        return figures
    first = model.variational_layers[0]
    if first.window is None:
        if not frames.is_file():
            return figures
        image_shape, image = load_frames(frames).image_shape, None
        theta = first.pruned_theta(model.threshold)
        figures["receptive_fields"] = plots.receptive_fields(theta, image_shape)
        figures["pixel_importance"] = plots.pixel_importance(theta, image_shape)
    else:  # the weights of a kernel do not belong to pixels
        image_shape, image = model.in_shape, find_image()
    makers = network_figures(model, _weights_at_start(run_dir, model), log_alphas, threshold, image_shape, image)
    return figures | {name: draw() for name, draw in makers.items()}


def _weights_at_start(run_dir: Path, model: Sequential) -> Sequential | None:
    """Return the network as it was before training; None if it started from weights that are not in the folder."""
    from svd_numpy.network.model import Sequential
    from svd_numpy.plots.figures import at_start

    if read_result(run_dir).get("init_from"):
        return None
    before = run_dir / "pretrain" / "model.safetensors"
    return at_start(model, Sequential.load(before) if before.is_file() else None)
