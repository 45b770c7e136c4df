"""The commands that look at a finished or unfinished run: evaluate, uncertainty, report, animate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd_numpy.checks import SvdValueError, as_path, check_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from svd_numpy.data import Dataset
    from svd_numpy.network.model import Sequential


@dataclass(frozen=True)
class Evaluate:
    """Measure test error, negative log-likelihood (nll) and compression of a saved network.

    Attributes
    ----------
    path : path
        A run folder, or a model.safetensors file.
    dataset : str, optional
        "mnist", "fashion-mnist", "digits", "cifar10" or "cifar100"; None takes the data set of the run.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    threshold : floats
        Prune weights whose log alpha exceeds this. Several values give one row each; none takes the network's own.
    """

    path: Path
    dataset: str | None = None
    data_dir: Path | None = None
    threshold: tuple[float, ...] = ()

    def run(self) -> int:
        """Print one row per threshold."""
        from svd_numpy.network.objective import Categorical
        from svd_numpy.network.scoring import evaluate
        from svd_numpy.network.sparsity import measure_sparsity

        model, data, file = open_run(self.path, self.dataset, self.data_dir)
        if data.n_classes == 0 or not isinstance(model.likelihood, Categorical):
            raise SvdValueError(
                f"{file} on {data.name}: got a regression, expected a classifier and images with labels"
            )
        print(f"{file} on the {len(data.x_test):,} test examples of {data.name}, backend {model.backend.name}")
        if data.warning:
            print(f"NOTE: {data.warning}")
        print(f"{'threshold':>9}{'error %':>10}{'nll':>9}{'kept':>10}{'of':>10}{'compression':>13}")
        for threshold in self.threshold or (model.threshold,):
            counts = measure_sparsity(model, threshold)
            model.threshold = counts.threshold
            score = evaluate(model, data.x_test, data.y_test)
            kept, total = sum(counts.kept.values()), sum(counts.total.values())
            print(
                f"{threshold:>9g}{100 * score['error']:>10.2f}{score['nll']:>9.4f}{kept:>10,}{total:>10,}"
                f"{counts.compression:>12.1f}x"
            )
        return 0


def open_network(path: Path) -> tuple[Sequential, Path]:
    """Return the network of a run folder or a model.safetensors file, and the file."""
    from svd_numpy.experiments.run_files import need
    from svd_numpy.network.model import Sequential

    path = as_path("path", path)
    file = path / "model.safetensors" if path.is_dir() else path
    return Sequential.load(need(file)), file


def open_run(path: Path, dataset: str | None, data_dir: Path | None) -> tuple[Sequential, Dataset, Path]:
    """Return the network of a run folder or a model.safetensors file, its data, and the file."""
    from svd_numpy.data import load
    from svd_numpy.experiments.run_files import recorded_dataset

    model, file = open_network(path)
    return model, load(dataset or recorded_dataset(file.parent), data_dir), file


@dataclass(frozen=True)
class Uncertainty:
    """Measure whether a saved network knows when it may be wrong; write RUN/uncertainty.json, .txt and .png.

    Measured are its calibration, and how much less certain it is about images of a data set it was not trained on.
    Its weights must still have their noise: train with a recipe that does not fine-tune, such as --recipe paper.

    Attributes
    ----------
    run_dir : path
        A run folder.
    outside : str
        The data set that the network was not trained on.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    samples : int
        How many networks to draw from the posterior.
    """

    run_dir: Path
    outside: str = "fashion-mnist"
    data_dir: Path | None = None
    samples: int = 100

    def run(self) -> int:
        """Print one row per way to predict, and draw the picture."""
        from svd_numpy.data import load
        from svd_numpy.experiments.run_files import need, recorded_dataset
        from svd_numpy.experiments.uncertainty import measure_uncertainty

        samples = check_count("samples", self.samples, low=2)
        folder = as_path("run_dir", self.run_dir)
        need(folder / "model.safetensors")
        inside = load(recorded_dataset(folder), self.data_dir)
        outside = load(self.outside, self.data_dir)
        report = measure_uncertainty(folder, inside=inside, outside=outside, n=samples)
        report.save(folder)
        print(report)
        print(f"written: {folder / 'uncertainty.png'}")
        return 0


@dataclass(frozen=True)
class Report:
    """Print the results and the last epochs of a run, and draw its figures into RUN/figures.

    Attributes
    ----------
    run_dir : path
        A run folder.
    last : int
        How many of the last epochs to print.
    data_dir : path, optional
        Folder of the data files, for the one image of the feature maps; None looks in SVD_NUMPY_DATA, then in the
        user's cache.
    """

    run_dir: Path
    last: int = 5
    data_dir: Path | None = None

    def run(self) -> int:
        """Read files only: nothing is trained, measured again or downloaded."""
        from svd_numpy.experiments.run_files import epoch_table, need, run_figures
        from svd_numpy.files.run_log import read_log
        from svd_numpy.plots.picture import save_figure

        last = check_count("last", self.last)
        folder = as_path("run_dir", self.run_dir)
        history = read_log(need(folder / "metrics.jsonl"))
        if not history:
            raise SvdValueError(f"{folder}: no epoch has finished yet, so there is nothing to report")
        result = folder / "result.txt"
        print(result.read_text("utf-8", "replace") if result.is_file() else "This run is not finished.\n")
        print(epoch_table(history[-last:]))
        figures = folder / "figures"
        figures.mkdir(exist_ok=True)
        for name, figure in run_figures(folder, history, partial(self._find_image, folder)).items():
            save_figure(figure, figures / f"{name}.png")
            print(f"written: {figures / name}.png")
        return 0

    def _find_image(self, folder: Path) -> NDArray[Any] | None:
        """Return the first test image; None, and say so, where the data set is not at hand."""
        from svd_numpy.data import MissingDataError, load
        from svd_numpy.experiments.run_files import recorded_dataset

        try:
            image: NDArray[Any] = load(recorded_dataset(folder), self.data_dir, download=False).x_test[0]
        except MissingDataError as error:
            print(f"NOTE: the feature maps are left out: they need an image of the data set. {error}")
            return None
        return image


@dataclass(frozen=True)
class Animate:
    """Draw RUN/sparsity.gif: the weights of the first layer disappear while the test error stays low.

    Attributes
    ----------
    run_dir : path
        A run folder.
    """

    run_dir: Path

    def run(self) -> int:
        """Draw the frames that the run kept."""
        from svd_numpy.experiments.run_files import load_frames
        from svd_numpy.plots.animate import render_gif

        folder = as_path("run_dir", self.run_dir)
        target = folder / "sparsity.gif"
        render_gif(load_frames(folder / "frames.npz"), target)
        print(f"written: {target}")
        return 0
