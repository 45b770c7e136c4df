"""What a run has left in its folder, read back: its data set, its epochs as a table, its figures."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy._files import write_atomic

if TYPE_CHECKING:
    from svd_numpy.frames import FrameRecorder


def need(path: Path) -> Path:
    """Return a path of a run where there is such a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected the folder of a run made by `svd-numpy train`")
    return path


def load_frames(path: Path) -> FrameRecorder:
    """Read the frames of a run."""
    from svd_numpy.frames import FrameRecorder

    return FrameRecorder.load(need(path))


def recorded_dataset(folder: Path) -> str:
    """Name the data set of the run in this folder; "auto" where there is no run."""
    file = folder / "result.json"
    name = str(json.loads(file.read_text()).get("dataset", "auto")) if file.is_file() else "auto"
    return name.partition(",")[0]  # "mnist, random labels": its test labels are those of "mnist"


def epoch_table(history: Sequence[dict[str, Any]]) -> str:
    """Lay records of metrics.jsonl out as a table."""
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


def save_log_alphas(path: Path, log_alphas: Mapping[str, NDArray[Any]], threshold: float) -> None:
    """Keep log_alpha of every layer, and the threshold that prunes by it; fine-tuning leaves no trace of them."""
    buffer = io.BytesIO()
    halves = {name: values.astype(np.float16) for name, values in log_alphas.items()}
    np.savez_compressed(buffer, threshold=np.float64(threshold), **halves)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def load_log_alphas(path: Path) -> tuple[dict[str, NDArray[Any]], float]:
    """Read what `save_log_alphas` wrote: {layer name: array}, threshold."""
    try:
        with np.load(need(path), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, float(arrays.pop("threshold"))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and the histogram is left out") from error


def run_figures(run_dir: Path, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Draw all figures for which the run has the files.

    Parameters
    ----------
    run_dir : Path
    history : list of dict
        The records of its metrics.jsonl.

    Returns
    -------
    dict of str to matplotlib Figure
        "training_curves"; "log_alpha", as it was after the last variational epoch; once the run is finished also
        "receptive_fields" and "pixel_importance".
    """
    from svd_numpy import plots
    from svd_numpy.model import Sequential

    figures: dict[str, Any] = {"training_curves": plots.training_curves(history)}
    file, frames, alphas = (run_dir / name for name in ("model.safetensors", "frames.npz", "log_alpha.npz"))
    if alphas.is_file():
        figures["log_alpha"] = plots.log_alpha_histogram(*load_log_alphas(alphas))
    if not file.is_file():
        return figures  # the network is written when a run is finished
    model = Sequential.load(file)
    if frames.is_file():
        image_shape = load_frames(frames).image_shape
        first = model.variational_layers[0]
        theta = first.fields(first.pruned_theta(model.keep), image_shape)[0]
        figures["receptive_fields"] = plots.receptive_fields(theta, image_shape)
        if first.window is None:  # a kernel's taps are no pixels
            figures["pixel_importance"] = plots.pixel_importance(theta, image_shape)
    return figures
