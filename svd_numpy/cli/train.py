"""The commands that train: their options are the parameters of `train_mnist` and `train_cifar`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from svd_numpy.checks import SvdValueError, as_path
from svd_numpy.cli.output import release_stdout

if TYPE_CHECKING:
    from svd_numpy.experiments.result import TrainResult

PROGRAM = "svd-numpy"


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What the training commands share: most options, and how to go on with a run that was stopped.

    Attributes
    ----------
    recipe : str
        Where all settings of the training come from: "default" is our own recipe, "paper" the authors' published
        script, "small" our own for a few thousand images (lenet-300-100 only).
    method : str
        How the network is made small: "sparse-vd"; "magnitude", "magnitude-rewind", "gradual-magnitude", "surgery" and
        "weight-sharing" prune ordinary weights; and others of svd_numpy.experiments.methods.METHODS.
    kind : str
        "variational" is Sparse VD. For comparison: "dense" has ordinary weights, "dropout" and "gaussian-dropout" add
        dropout to them.
    epochs : int, optional
        Variational epochs; None takes the recipe's. Schedules and fine-tuning are scaled to match.
    batch_size : int, optional
        Images per step; None takes the recipe's.
    kl_weight : float
        Factor on the recipe's weight of the KL; a larger one gives a sparser network.
    seed : int
        Seed of the initial weights, the order and shifts of the images, and the noise.
    random_labels : bool
        Replace the training labels by random ones: whatever the network then fits, it has memorised.
    init_from : path, optional
        A saved network (model.safetensors) whose weights to start from, instead of any pre-training.
    backend : str
        "cuda" (a GPU), "numba" (fast), "numpy" (plain), or "auto": SVD_NUMPY_BACKEND if set, else the fastest usable.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    run_dir : path, optional
        Folder for the log, checkpoints, network and pictures; None is runs/ARCH-DATASET-RECIPE-seedSEED, with what
        else sets the run apart.
    resume : bool
        Go on with the run in this folder; the result has the same bits as if it had never stopped.
    extend : int
        Train so many epochs more than the recipe (or --epochs) says; with --resume, a finished run goes on.
    remove_above : float, optional
        Remove weights for good while training, once their log alpha is above it: training gets faster. None takes the
        recipe's, inf removes none.
    sparsity : float, optional
        Share of weights that are 0 at the end, for methods that prune by magnitude; None takes that of the method.
    held_out : float
        Share of the training images, 0 to 0.5, that is not trained on and whose error is logged: for choices.
    progress : bool
        Show a progress bar (in a terminal) or a line per epoch (in a log).
    eval_every : int
        Measure the test error every so many epochs, for the curve only: nothing is chosen by it. 0 measures it at
        the end only.
    """

    dataset: str
    arch: str
    recipe: str = "default"
    method: str = "sparse-vd"
    kind: str = "variational"
    epochs: int | None = None
    batch_size: int | None = None
    kl_weight: float = 1.0
    seed: int = 0
    random_labels: bool = False
    init_from: Path | None = None
    backend: str = "auto"
    data_dir: Path | None = None
    run_dir: Path | None = None
    resume: bool = False
    extend: int = 0
    remove_above: float | None = None
    sparsity: float | None = None
    held_out: float = 0.0
    progress: bool = True
    eval_every: int = 1

    word: ClassVar[str]  # the subcommand

    def train(self, **options: Any) -> TrainResult:
        """Train with these options."""
        raise NotImplementedError

    def default_run_dir(self) -> Path:
        """Name the run folder after what is trained; refuse an unknown architecture or recipe before reading data."""
        raise NotImplementedError

    def run(self) -> int:
        """Train; 0 when finished, 1 when finished but not printed, 128 + signal number when stopped."""
        from svd_numpy.train.console import TrainingInterrupted

        options = {field.name: getattr(self, field.name) for field in fields(self)}
        folder = as_path("run_dir", options["run_dir"] or self.default_run_dir())
        check_run_dir(folder, options["resume"])
        finished = (folder / "result.json").is_file() and not self.extend
        try:
            result = self.train(**{**options, "run_dir": folder})
        except TrainingInterrupted as stop:
            again = replace(self, run_dir=folder, resume=True).command_line()
            print(f"\n{stop}\nor on the command line: {again}", file=sys.stderr)
            return 128 + stop.number
        try:
            print(f"The run in {folder} had already finished:\n{result}" if finished else result)
            print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
            print(f"pictures: {shlex.join([PROGRAM, 'report', str(folder)])}", flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            print(
                f"{PROGRAM}: the run is finished and kept in {folder}, but stdout could not take its results "
                f"({error.strerror}); print them again with: {shlex.join([PROGRAM, 'report', str(folder)])}",
                file=sys.stderr,
            )
            release_stdout()
            return 1
        return 0

    def command_line(self) -> str:
        """Write this command as one would type it, without the options that have their default."""
        words = [PROGRAM, self.word]
        for field in fields(self):
            value, option = getattr(self, field.name), field.name.replace("_", "-")
            if value == field.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", str(value)]
        return shlex.join(words)


def check_run_dir(folder: Path, resume: bool) -> None:
    """Refuse to start in the folder of an existing run, or to resume a run that is not there."""
    from svd_numpy.experiments.series import begun

    exists = begun(folder) or (folder / "result.json").exists()  # a first checkpoint that failed is no run
    if exists and not resume:
        raise SvdValueError(f"{folder} already holds a run: --resume goes on with it, --run-dir names another folder")
    if resume and not exists:
        raise SvdValueError(f"{folder} holds no run to go on with: leave out --resume, or correct --run-dir")


def run_folder(network: str, dataset: str, options: _Training) -> Path:
    """Return the folder of a run in `runs`, named after what sets it apart from other runs."""
    from svd_numpy.experiments.methods import DEFAULT, get_method

    get_method(options.method, options.kind)
    method = [] if options.method == DEFAULT else [options.method]
    kind = [] if options.kind == "variational" else [options.kind]
    labels = ["random-labels"] if options.random_labels else []
    kl_weight = [f"kl{options.kl_weight:g}"] if options.kl_weight != 1 else []
    removal = [] if options.remove_above is None else [f"remove{options.remove_above:g}"]
    sparsity = [] if options.sparsity is None else [f"sparsity{options.sparsity:g}"]
    words = [network, *method, *kind, dataset, *labels, options.recipe, *kl_weight, *removal, *sparsity]
    return Path("runs") / "-".join([*words, f"seed{options.seed}"])


@dataclass(frozen=True, kw_only=True)
class Train(_Training):
    """Train a sparse network, print its results beside the paper's, and keep everything in a run folder.

    Ctrl-C (or SIGTERM) finishes the step, saves, and prints the command that goes on.

    Attributes
    ----------
    dataset : str
        "mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-SPLIT", "digits" (embedded), "idx" (your own files in
        --data-dir), or "auto": MNIST, or digits with a warning if MNIST cannot be had.
    arch : str
        Architecture, as in the paper's table 1: lenet-300-100 (fully connected), lenet-500-300 or lenet-5
        (LeNet-5-Caffe, two convolutions).
    method : str
        How the network is made small: "sparse-vd", or another of svd_numpy.experiments.methods.METHODS.
    """

    dataset: str = "auto"
    arch: str = "lenet-300-100"
    method: str = "sparse-vd"

    word: ClassVar[str] = "train"

    def train(self, **options: Any) -> TrainResult:
        """Train with these options."""
        from svd_numpy.experiments import mnist

        return mnist.train_mnist(**options)

    def default_run_dir(self) -> Path:
        """Name the run folder; "auto" data are looked up for it."""
        from svd_numpy.data import load
        from svd_numpy.experiments.methods import DEFAULT, get_method
        from svd_numpy.experiments.recipes import get_recipe

        get_recipe(self.arch, self.recipe)
        get_method(self.method, self.kind)
        network = self.arch if self.method == DEFAULT else f"{self.arch}-{self.method}"
        dataset = load("auto", self.data_dir).name if self.dataset == "auto" else self.dataset
        return run_folder(network, dataset, self)


@dataclass(frozen=True, kw_only=True)
class TrainCifar(_Training):
    """Train a sparse convolutional network on CIFAR, after pre-training with dropout; keep everything in a run folder.

    Ctrl-C (or SIGTERM) finishes the step, saves, and prints the command that goes on, in whichever stage it stopped.

    Attributes
    ----------
    dataset : str
        "cifar10" or "cifar100".
    arch : str
        Architecture: vgg-like (13 convolutions, 2 dense layers).
    width : float
        Factor on the numbers of filters and units; at 1 the first layers have 64 and the last ones 512.
    pretrain_epochs : int, optional
        Epochs of pre-training with dropout; None takes the recipe's, 0 starts from random weights.
    """

    dataset: str = "cifar10"
    arch: str = "vgg-like"
    width: float = 1.0
    pretrain_epochs: int | None = None

    word: ClassVar[str] = "train-cifar"

    def train(self, **options: Any) -> TrainResult:
        """Train with these options."""
        from svd_numpy.experiments import cifar

        return cifar.train_cifar(**options)

    def default_run_dir(self) -> Path:
        """Name the run folder."""
        from svd_numpy.experiments.recipes import get_recipe

        get_recipe(self.arch, self.recipe)
        return run_folder(f"{self.arch}-width{self.width:g}", self.dataset, self)
