"""The commands that train: their options are the parameters of `train_mnist` and `train_cifar`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from svd_numpy.cli.runs import Runs

if TYPE_CHECKING:
    from svd_numpy.experiments.result import TrainResult


@dataclass(frozen=True, kw_only=True)
class _Training(Runs):
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
    finetune_bits : int, optional
        Fine-tune with weights and biases rounded to so many bits, 2 to 24, sign included; None does not round.
    held_out : float
        Share of the training images, 0 to 0.5, that is not trained on and whose error is logged: for choices.
    progress : bool
        Show a progress bar (in a terminal) or a line per epoch (in a log).
    eval_every : int
        Measure the test error every so many epochs, for the curve only: nothing is chosen by it. 0 measures it at
        the end only.
    log : words
        Show the run in other tools, too: "tensorboard" writes event files to its folder, "mlflow" writes to
        MLFLOW_TRACKING_URI, or else to mlruns beside the folder.
    shards : int
        Cut every batch into so many parts, a power of two, whose gradients are added in a fixed order. It changes the
        last bits of the result; the number of processes that share the parts does not.
    ranks : bool
        Share the parts with the other processes that MPI started: mpiexec -n 4 python -m mpi4py -m svd_numpy train
        --ranks --shards 4
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
    finetune_bits: int | None = None
    held_out: float = 0.0
    progress: bool = True
    eval_every: int = 1
    log: tuple[str, ...] = ()
    shards: int = 1
    ranks: bool = False


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
    bits = [] if options.finetune_bits is None else [f"bits{options.finetune_bits}"]
    shards = [f"shards{options.shards}"] if options.shards != 1 else []
    how = [*kl_weight, *removal, *sparsity, *bits, *shards]
    words = [network, *method, *kind, dataset, *labels, options.recipe, *how]
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
        from svd_numpy.experiments.recipes import get_recipe

        get_recipe(self.arch, self.recipe)
        dataset = load("auto", self.data_dir).name if self.dataset == "auto" else self.dataset
        return run_folder(self.arch, dataset, self)


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
