"""The command line: one frozen dataclass per subcommand, its fields are the options.

`tyro` turns the dataclasses and their docstrings into parsers. Parsing imports nothing heavy; each `run`
imports what it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from svd_numpy.checks import SvdValueError
from svd_numpy.cli.train import PROGRAM, Train, TrainCifar

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEBUG = "SVD_NUMPY_DEBUG"
DESCRIPTION = (
    '"SVD" here is Sparse Variational Dropout (Molchanov, Ashukha, Vetrov 2017), never the singular value '
    "decomposition: networks that find out by themselves which of their weights they do not need."
)


class Command(Protocol):
    """A parsed command line, ready to run."""

    def run(self) -> int:
        """Do it and return the exit status."""


@dataclass(frozen=True)
class Evaluate:
    """Measure error, NLL and compression of a saved network on test data.

    Attributes
    ----------
    path : path
        A run folder, or a model.safetensors.
    dataset : str, optional
        "mnist", "fashion-mnist", "digits", "cifar10" or "cifar100"; None takes the data set of the run.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    threshold : floats
        Prune weights whose log alpha exceeds this; several give several rows, none takes the network's own.
    """

    path: Path
    dataset: str | None = None
    data_dir: Path | None = None
    threshold: tuple[float, ...] = ()

    def run(self) -> int:
        """Print one row per threshold."""
        from svd_numpy.data import load
        from svd_numpy.experiments.run_files import need, recorded_dataset
        from svd_numpy.network.model import Sequential
        from svd_numpy.network.scoring import evaluate
        from svd_numpy.network.sparsity import measure_sparsity

        file = self.path / "model.safetensors" if self.path.is_dir() else self.path
        model = Sequential.load(need(file))
        data = load(self.dataset or recorded_dataset(file.parent), self.data_dir)
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


@dataclass(frozen=True)
class Uncertainty:
    """Measure calibration of a saved network and its notice of foreign images; writes RUN/uncertainty.*.

    The network must have its noise: train with a recipe that does not fine-tune, such as --recipe paper.

    Attributes
    ----------
    run_dir : path
        A run folder.
    outside : str
        The data set with the foreign images.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    samples : int
        Networks drawn from the posterior.
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

        need(self.run_dir / "model.safetensors")
        inside = load(recorded_dataset(self.run_dir), self.data_dir)
        outside = load(self.outside, self.data_dir)
        report = measure_uncertainty(self.run_dir, inside=inside, outside=outside, n=self.samples)
        report.save(self.run_dir)
        print(report)
        print(f"written: {self.run_dir / 'uncertainty.png'}")
        return 0


@dataclass(frozen=True)
class Report:
    """Print the results and last epochs of a run, and draw its figures into RUN/figures.

    Attributes
    ----------
    run_dir : path
        A run folder.
    last : int
        How many of the last epochs to print.
    data_dir : path, optional
        Folder of the data files, for one image; None looks in SVD_NUMPY_DATA, then in the user's cache.
    """

    run_dir: Path
    last: int = 5
    data_dir: Path | None = None

    def run(self) -> int:
        """Read files only: nothing is trained, measured again or downloaded."""
        from svd_numpy.checks import check_count
        from svd_numpy.experiments.run_files import epoch_table, need, run_figures
        from svd_numpy.files.run_log import read_log

        last = check_count("last", self.last)
        history = read_log(need(self.run_dir / "metrics.jsonl"))
        if not history:
            raise SvdValueError(f"{self.run_dir}: no epoch is finished yet, there is nothing to report")
        result = self.run_dir / "result.txt"
        print(result.read_text() if result.is_file() else "This run is not finished.\n")
        print(epoch_table(history[-last:]))
        figures = self.run_dir / "figures"
        figures.mkdir(exist_ok=True)
        for name, figure in run_figures(self.run_dir, history, self._find_image).items():
            figure.savefig(figures / f"{name}.png", dpi=100)
            print(f"written: {figures / name}.png")
        return 0

    def _find_image(self) -> NDArray[Any] | None:
        """Return the first test image; None, and say so, where the data set is not at hand."""
        from svd_numpy.data import MissingDataError, load
        from svd_numpy.experiments.run_files import recorded_dataset

        try:
            image: NDArray[Any] = load(recorded_dataset(self.run_dir), self.data_dir, download=False).x_test[0]
        except MissingDataError as error:
            print(f"NOTE: no feature maps, for want of an image. {error}")
            return None
        return image


@dataclass(frozen=True)
class Animate:
    """Draw RUN/sparsity.gif: first-layer weights dying while the test error stays.

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

        target = self.run_dir / "sparsity.gif"
        render_gif(load_frames(self.run_dir / "frames.npz"), target)
        print(f"written: {target}")
        return 0


@dataclass(frozen=True)
class Bench:
    """Time one training step against PyTorch (needs a checkout, and torch for the comparison).

    Attributes
    ----------
    batches : ints
        Batch sizes.
    threads : ints
        Thread counts; none takes those of benchmarks/step.py.
    rounds : int
        Timed blocks of each candidate, at least 5.
    candidates : names
        Whom to time, for example "ours" "eager"; none times all.
    out : path, optional
        Folder for step.md and step.json; None is benchmarks/results.
    """

    batches: tuple[int, ...] = (100, 1000)
    threads: tuple[int, ...] = ()
    rounds: int = 7
    candidates: tuple[str, ...] = ()
    out: Path | None = None

    def run(self) -> int:
        """Run the script in a process of its own, so that thread settings take effect."""
        from svd_numpy.cli.bench import run_step_benchmark

        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            words += [f"--{field.name}", *map(str, values)] if values else []
        return run_step_benchmark(words)


@dataclass(frozen=True)
class Status:
    """List which data sets are found where, and whether they are intact."""

    def run(self) -> int:
        """Verify every file found; 1 when one is damaged."""
        from svd_numpy.data import status

        damaged = 0
        for row in status():
            state = "ok" if row["verified"] else "DAMAGED" if row["where"] else "missing"
            damaged += state == "DAMAGED"
            print(f"{row['name']:<15}{state:<9}{row['where'] or row['note']}")
            if row["where"] and row["note"]:
                print(f"{'':<24}{row['note']}")
        return 1 if damaged else 0


@dataclass(frozen=True)
class Fetch:
    """Download a data set into the user's cache, verified.

    Attributes
    ----------
    name : str
        "mnist", "fashion-mnist", "cifar10" or "cifar100".
    """

    name: str

    def run(self) -> int:
        """Fetch, unless an intact copy is there."""
        from svd_numpy.data import fetch

        print(f"{self.name} is in {fetch(self.name)}")
        return 0


@dataclass(frozen=True)
class Import:
    """Copy the data sets found in a folder into the user's cache, verified.

    Attributes
    ----------
    path : path
        A folder with the original files, packed or unpacked; it is only read.
    """

    path: Path

    def run(self) -> int:
        """Import all or nothing."""
        from svd_numpy.data import import_folder

        print(f"now in the cache: {', '.join(import_folder(self.path))}")
        return 0


@dataclass(frozen=True)
class Data:
    """Look after the data files: status, fetch NAME, import PATH."""

    command: Status | Fetch | Import

    def run(self) -> int:
        """Run the command."""
        return self.command.run()


@dataclass(frozen=True)
class Doctor:
    """Check this installation: versions, processor, data, and a small sum on every backend."""

    def run(self) -> int:
        """Print what is found; 1 when something is wrong."""
        from svd_numpy.cli.doctor import doctor

        return doctor()


@dataclass(frozen=True)
class Gradcheck:
    """Compare every hand-written gradient with finite differences, for each prior and backend."""

    def run(self) -> int:
        """Print one table each; 1 when one does not agree."""
        from svd_numpy.cli.doctor import check_gradients

        return check_gradients()


COMMANDS: dict[str, Callable[..., Command]] = {
    "train": Train,
    "train-cifar": TrainCifar,
    "evaluate": Evaluate,
    "uncertainty": Uncertainty,
    "report": Report,
    "animate": Animate,
    "bench": Bench,
    "gradcheck": Gradcheck,
    "data": Data,
    "doctor": Doctor,
}


def parse(arguments: Sequence[str]) -> Command:
    """Turn command-line words into a command; SystemExit for --help and for words that make no sense."""
    import tyro

    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog=PROGRAM,
        description=DESCRIPTION,
        args=list(arguments),
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.PositionalRequiredArgs),
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        Exit status: 0 done, 1 a check failed, 2 wrong argument or unusable file, 128 + n stopped by signal n.
    """
    try:
        status = parse(sys.argv[1:] if arguments is None else arguments).run()
        sys.stdout.flush()  # here, where it can be answered for, if the reader has gone
        return status
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has gone; what is left to flush at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get(DEBUG):
            raise
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
