"""The commands that train on text: their options are the parameters of `train_text` and `train_sentiment`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from svd_numpy.cli.runs import Runs

if TYPE_CHECKING:
    from svd_numpy.experiments.text_result import TextResult


@dataclass(frozen=True, kw_only=True)
class _TextTraining(Runs):
    """What both commands share.

    Attributes
    ----------
    kind : str
        "variational" is Sparse VD. For comparison: "dense" has ordinary weights, "dropout" adds dropout to them.
    groups : tuple of str
        Weights that leave together, besides single ones: inputs units gates; in train-sentiment, words, too.
    epochs : int, optional
        Epochs, instead of 100 (letters) or 60 (sentences); the schedules are stretched to match.
    kl_weight : float
        Factor on the weight of the KL; a larger one gives a sparser network.
    seed : int
        Seed of the initial weights and the noise.
    backend : str
        "numba" (fast), "numpy" (plain), or "auto": SVD_NUMPY_BACKEND if set, else the fastest usable.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache.
    run_dir : path, optional
        Folder for the log, checkpoints, network and curves; None is a folder in runs/, named after what sets the run
        apart.
    resume : bool
        Go on with the run in this folder; the result has the same bits as if it had never stopped.
    extend : int
        Train so many epochs more; with --resume, a finished run goes on.
    remove_above : float, optional
        Remove weights for good while training, once their log alpha is above it: training gets faster. None takes the
        recipe's, inf removes none.
    progress : bool
        Show a progress bar (in a terminal) or a line per epoch (in a log).
    """

    dataset: str = "auto"
    units: int
    kind: str = "variational"
    groups: tuple[str, ...] = ()
    epochs: int | None = None
    kl_weight: float = 1.0
    seed: int = 0
    backend: str = "auto"
    data_dir: Path | None = None
    run_dir: Path | None = None
    resume: bool = False
    extend: int = 0
    remove_above: float | None = None
    progress: bool = True

    def folder_of(self, network: str) -> Path:
        """Return the run folder of a network, named after what sets it apart."""
        kind = [] if self.kind == "variational" else [self.kind]
        kl_weight = [f"kl{self.kl_weight:g}"] if self.kl_weight != 1 else []
        removal = [] if self.remove_above is None else [f"remove{self.remove_above:g}"]
        words = [network, *kind, *self.groups, Path(self.dataset).stem, *kl_weight, *removal, f"seed{self.seed}"]
        return Path("runs") / "-".join(words)


@dataclass(frozen=True, kw_only=True)
class TrainText(_TextTraining):
    """Train a recurrent network that predicts each next letter of a text, and removes what it does not need.

    Ctrl-C (or SIGTERM) finishes the step, saves, and prints the command that goes on.

    Attributes
    ----------
    dataset : str
        "tinyshakespeare", "reviews-text" (made up, always there), "auto" (the first of these that can be had), or the
        path of a text file in UTF-8.
    cell : str
        "lstm" or "gru".
    units : int
        Hidden units.
    lanes : int, optional
        Pieces of the text that are read side by side; None takes 64, or 16 for the made-up reviews.
    steps : int
        Letters after which gradients are cut.
    """

    cell: str = "lstm"
    units: int = 128
    lanes: int | None = None
    steps: int = 50

    word: ClassVar[str] = "train-text"

    def train(self, **options: Any) -> TextResult:
        """Train with these options."""
        from svd_numpy.experiments.text import train_text

        return train_text(**options)

    def default_run_dir(self) -> Path:
        """Name the run folder."""
        return self.folder_of(f"{self.cell}-{self.units}")


@dataclass(frozen=True, kw_only=True)
class TrainSentiment(_TextTraining):
    """Train a recurrent network that says whether a sentence praises, and finds out which words it needs.

    Ctrl-C (or SIGTERM) finishes the step, saves, and prints the command that goes on.

    Attributes
    ----------
    dataset : str
        "rt-polarity", "reviews" (made up, always there), or "auto": the first of these that can be had.
    features : int
        Numbers for each word.
    units : int
        Hidden units.
    """

    features: int = 64
    units: int = 64

    word: ClassVar[str] = "train-sentiment"

    def train(self, **options: Any) -> TextResult:
        """Train with these options."""
        from svd_numpy.experiments.text import train_sentiment

        return train_sentiment(**options)

    def default_run_dir(self) -> Path:
        """Name the run folder."""
        return self.folder_of(f"sentiment-{self.features}-{self.units}")


@dataclass(frozen=True)
class Generate:
    """Let a network that was trained on letters go on with a text.

    Attributes
    ----------
    path : path
        A run folder of train-text, or a model.safetensors file.
    prompt : str
        How the text begins.
    length : int
        Letters to add.
    temperature : float
        Below 1 likely letters become likelier; 0 always takes the likeliest.
    seed : int
        Of the draws.
    """

    path: Path
    prompt: str
    length: int = 500
    temperature: float = 0.8
    seed: int = 0

    def run(self) -> int:
        """Print the text."""
        from svd_numpy.checks import as_path
        from svd_numpy.experiments.generating import generate
        from svd_numpy.experiments.run_files import need
        from svd_numpy.network.model import Sequential

        path = as_path("path", self.path)
        model = Sequential.load(need(path / "model.safetensors" if path.is_dir() else path))
        print(generate(model, self.prompt, self.length, self.temperature, self.seed))
        return 0
