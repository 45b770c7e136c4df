"""`train_text`, a network that predicts letters, and `train_sentiment`, one that says whether a sentence praises.

Both follow Chirkova, Lobacheva, Vetrov 2018: one sample of the weights for each batch, log sigma^2 from -6, the KL
divided by the number of letters or sentences. Unlike there, the weight of the KL rises from 0 over the first half of
the run, and the text is Tiny Shakespeare, or the sentences of Pang and Lee (2005), which are small enough for a laptop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdValueError, check_choice, check_count, check_flag, check_path
from svd_numpy.data import Dataset, MissingDataError, load
from svd_numpy.data.text import rearranged, text_dataset
from svd_numpy.experiments.options import check_changes, check_kl_weight, check_removal, check_resume
from svd_numpy.experiments.recipes import stretch
from svd_numpy.experiments.run_files import has_result, save_or_say
from svd_numpy.experiments.text_result import FILES, TextResult
from svd_numpy.kernels import resolve_backend
from svd_numpy.network.layers import (
    GRU,
    LSTM,
    Dense,
    Dropout,
    Embedding,
    Layer,
    VariationalDense,
    VariationalEmbedding,
    VariationalGRU,
    VariationalLSTM,
)
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig
from svd_numpy.train.console import say
from svd_numpy.train.loop import Callback, Run, fit_together

_LOG_SIGMA2 = -6.0  # the authors' start
_DROPOUT = {"letters": 0.3, "sentences": 0.5}
_CELLS = {"lstm": (LSTM, VariationalLSTM), "gru": (GRU, VariationalGRU)}
_KINDS = ("variational", "dense", "dropout")
_OF_CELLS = ("inputs", "units", "gates")  # groups of weights of a recurrent layer

# Letters: batch and clipping as in the authors' script for the letters of the Penn Treebank, the rest chosen by the
# validation text. With the rate at 2e-3, as in their script, 60 epochs with KL weight 4 end at 1.628 nats and 3.4 times
# fewer weights; with 6e-3, at 1.546 nats and 3.1 times. Ordinary weights want 2e-3 (1.542 nats; with 6e-3, 1.549).
LETTERS = TrainConfig(
    epochs=100, batch_size=64, lr=6e-3, lr_schedule=((50.0, 1.0), (100.0, 0.0)), kl_schedule=((0.0, 0.0), (50.0, 5.0)),
    finetune_epochs=20, finetune_lr=2e-3, finetune_threshold=0.0, clip_norm=1.0, eval_every=1,
)  # fmt: skip
# Sentences: much as in the authors' script for IMDB. Of the KL weights 0.1, 0.3, 0.6 and 1, those from 0.6 on remove
# 99 % of the weights, and 1 costs accuracy.
SENTENCES = TrainConfig(
    epochs=60, batch_size=64, lr=1e-3, lr_schedule=((40.0, 1.0), (60.0, 0.0)), kl_schedule=((0.0, 0.0), (30.0, 0.7)),
    clip_norm=10.0, eval_every=1,
)  # fmt: skip
_ORDINARY_LETTERS_LR = 2e-3  # of networks without noise on their weights


@dataclass(frozen=True)
class _Options:
    """Arguments that both experiments share; checked here."""

    known_groups: Sequence[str]
    kind: str
    groups: Sequence[str]
    epochs: int | None
    kl_weight: float
    seed: int
    backend: str
    data_dir: str | Path | None
    run_dir: str | Path | None
    resume: bool
    extend: int
    remove_above: float | None
    changes: Mapping[str, Any] | None
    progress: bool
    callbacks: Sequence[Callback]

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, _KINDS)
        check_kl_weight(self.kl_weight, self.kind)
        check_removal(self.remove_above, self.kind, f"kind {self.kind!r}")
        if self.groups and self.kind != "variational":
            raise SvdValueError(f"groups: got {self.groups!r}, but kind {self.kind!r} has no groups; leave them out")
        if isinstance(self.groups, str) or not set(self.groups) <= set(self.known_groups):
            raise SvdValueError(f"groups: got {self.groups!r}, expected a list of some of {[*self.known_groups]}")
        check_count("seed", self.seed, low=0)
        check_count("extend", self.extend, low=0)
        check_flag("progress", self.progress)
        check_path("run_dir", self.run_dir)
        check_resume(self.resume, self.run_dir)
        object.__setattr__(self, "backend", resolve_backend(self.backend))
        object.__setattr__(self, "changes", check_changes(self.changes))

    def configure(self, config: TrainConfig, batch_size: int, ordinary_lr: float) -> TrainConfig:
        """Put the options into a configuration."""
        if self.kind != "variational":
            config = replace(config, lr=ordinary_lr, finetune_epochs=0)
        config = config if self.epochs is None else stretch(config, self.epochs)
        changes = {"batch_size": batch_size, "seed": self.seed, "kl_weight": self.kl_weight, **(self.changes or {})}
        config = replace(config, **changes)
        if self.kind != "variational" or self.remove_above == math.inf:
            config = replace(config, remove_above=None)
        elif self.remove_above is not None:  # not before the KL has its full weight, since then weights still come back
            first = config.remove_from or min(math.ceil(config.kl_schedule[-1][0]), config.epochs)
            config = replace(config, remove_above=self.remove_above, remove_from=first)
        return config.extended(self.extend)

    def of_layer(self, *groups: str) -> dict[str, Any]:
        """Arguments that variational layers have and plain ones do not, for one that can have these groups."""
        if self.kind != "variational":
            return {}
        wanted = {"groups": [group for group in groups if group in self.groups]} if groups else {}
        return {"log_sigma2": _LOG_SIGMA2, **wanted}


def train_text(
    *,
    dataset: str = "auto",
    cell: str = "lstm",
    units: int = 128,
    kind: str = "variational",
    groups: Sequence[str] = (),
    epochs: int | None = None,
    lanes: int | None = None,
    steps: int = 50,
    kl_weight: float = 1.0,
    seed: int = 0,
    backend: str = "auto",
    data_dir: str | Path | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    extend: int = 0,
    remove_above: float | None = None,
    changes: Mapping[str, Any] | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> TextResult:
    """Train a recurrent network that predicts each next letter of a text, and sparsifies itself.

    Parameters
    ----------
    dataset : str
        "tinyshakespeare"; "reviews-text", made up and always there; "auto", the first of these that can be had, with a
        warning for the second; or the path of a text file in UTF-8.
    cell : "lstm" or "gru"
    units : int
    kind : "variational", "dense" or "dropout"
        Sparse VD; or, as a baseline, ordinary weights, without or with Bernoulli dropout before the last layer.
    groups : some of "inputs", "units" and "gates"
        Weights that leave together, besides single ones (`VariationalLSTM`): those of a letter, those that read a unit
        at the next step, those of a gate.
    epochs : int, optional
        Instead of 100; the schedules are stretched to match.
    lanes, steps : int, optional
        Pieces of the text that are read side by side, and letters after which gradients are cut (`text_dataset`);
        default: 64, or 16 for the made-up reviews, and 50.
    kl_weight : float
        Factor on the KL schedule, 0 to 1000: a larger one makes a sparser network.
    seed : int
        Of initial weights and noise.
    backend : "auto", "numba" or "numpy"
    data_dir : path, optional
        Where the data files are; default: `SVD_NUMPY_DATA`, then the user's cache.
    run_dir : path, optional
        Folder for log, checkpoints, network and curves; without it nothing is written.
    resume : bool
        Continue the run in `run_dir`, bit for bit as if it had never stopped, even in the middle of an epoch.
    extend : int
        Train so many epochs more; with `resume`, a finished run goes on.
    remove_above : float, optional
        Weights whose log_alpha is above it leave for good at the end of an epoch, once the KL has its full weight,
        which makes training faster (`TrainConfig.remove_above`). None takes the recipe's, infinity removes none.
    changes : mapping, optional
        Numbers that replace those of the recipe, by name: fields of `TrainConfig`, such as {"lr": 1e-3}.
    progress : bool
        Show a bar (in a terminal or a notebook) or a line per epoch (elsewhere).
    callbacks : functions (trainer, record)
        Called after each epoch.

    Returns
    -------
    TextResult

    Raises
    ------
    SvdValueError, SvdTypeError
        For arguments that make no sense; `DataError` if the data are not available.
    """
    options = _Options(
        _OF_CELLS, kind, groups, epochs, kl_weight, seed, backend, data_dir, run_dir, resume, extend, remove_above,
        changes, progress, callbacks,
    )  # fmt: skip
    plain, variational = _CELLS[check_choice("cell", cell, _CELLS)]
    units, steps = check_count("units", units), check_count("steps", steps)
    lanes = None if lanes is None else check_count("lanes", lanes)
    data = _load_text(dataset, lanes, steps, options)
    rnn, dense = (variational, VariationalDense) if kind == "variational" else (plain, Dense)
    layers: list[Layer] = [
        rnn(data.vocabulary, units, tokens=True, **options.of_layer(*_OF_CELLS)),
        *([Dropout(_DROPOUT["letters"])] if kind == "dropout" else []),
        dense(units, data.n_classes, **options.of_layer()),
    ]
    model = Sequential(*layers, backend=options.backend, seed=seed, input_shape=(data.x_train.shape[1],))
    return _run(model, data, options.configure(LETTERS, data.lanes, _ORDINARY_LETTERS_LR), options)


def train_sentiment(
    *,
    dataset: str = "auto",
    features: int = 64,
    units: int = 64,
    kind: str = "variational",
    groups: Sequence[str] = (),
    epochs: int | None = None,
    kl_weight: float = 1.0,
    seed: int = 0,
    backend: str = "auto",
    data_dir: str | Path | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    extend: int = 0,
    remove_above: float | None = None,
    changes: Mapping[str, Any] | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> TextResult:
    """Train a recurrent network that says whether a sentence praises, and finds out which words it needs for that.

    Parameters
    ----------
    dataset : "rt-polarity", "reviews" or "auto"
        Sentences of film reviews; made-up ones, which are always there; or the first of these that can be had.
    features, units : int
        Of the embedding and of the LSTM.
    kind : "variational", "dense" or "dropout"
        As in `train_text`.
    groups : some of "words", "inputs", "units" and "gates"
        Weights that leave together, besides single ones: the numbers of a word, and those of the LSTM that read a
        number, that read a unit at the next step, that belong to a gate.
    epochs : int, optional
        Instead of 60; the schedules are stretched to match.
    kl_weight, seed, backend, data_dir, run_dir, resume, extend, remove_above, changes, progress, callbacks
        As in `train_text`.

    Returns
    -------
    TextResult
        `words()` lists the words that are left.

    Raises
    ------
    SvdValueError, SvdTypeError
        For arguments that make no sense; `DataError` if the data are not available.
    """
    options = _Options(
        ("words", *_OF_CELLS), kind, groups, epochs, kl_weight, seed, backend, data_dir, run_dir, resume, extend,
        remove_above, changes, progress, callbacks,
    )  # fmt: skip
    features, units = check_count("features", features), check_count("units", units)
    data = _load_auto(dataset, "rt-polarity", "reviews", options)
    if data.padding is None:
        raise SvdValueError(f"dataset: got {dataset!r}, expected labelled sentences: rt-polarity or reviews")
    made = {True: (VariationalEmbedding, VariationalLSTM, VariationalDense), False: (Embedding, LSTM, Dense)}
    embedding, rnn, dense = made[kind == "variational"]
    layers: list[Layer] = [
        embedding(data.vocabulary, features, padding=data.padding, **options.of_layer("words")),
        rnn(features, units, every_step=False, **options.of_layer(*_OF_CELLS)),
        *([Dropout(_DROPOUT["sentences"])] if kind == "dropout" else []),
        dense(units, data.n_classes, **options.of_layer()),
    ]
    model = Sequential(*layers, backend=options.backend, seed=seed, input_shape=(data.x_train.shape[1],))
    return _run(model, data, options.configure(SENTENCES, SENTENCES.batch_size, SENTENCES.lr), options)


def _load_auto(dataset: str, best: str, substitute: str, options: _Options) -> Dataset:
    """Load a data set; "auto" is the best one if it is there, else the substitute."""
    if dataset != "auto":
        return load(dataset, options.data_dir)
    try:
        return load(best, options.data_dir)
    except MissingDataError:
        found = load(substitute)
        return replace(found, warning=f"{best} was not found, so this is {substitute!r}. {found.warning}")


def _load_text(dataset: str, lanes: int | None, steps: int, options: _Options) -> Dataset:
    """Load a text and arrange it in lanes."""
    if Path(dataset).is_file():
        try:
            text = Path(dataset).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise SvdValueError(f"dataset: {dataset} is not a text in UTF-8: {error}") from error
        return text_dataset(text, lanes or LETTERS.batch_size, steps, Path(dataset).stem, dataset)
    found = _load_auto(dataset, "tinyshakespeare", "reviews-text", options)
    if not found.lanes:
        raise SvdValueError(
            f"dataset: got {dataset!r}, expected a text: tinyshakespeare, reviews-text, or the path of a text file"
        )
    return rearranged(found, found.lanes if lanes is None else lanes, steps)


def _run(model: Sequential, data: Dataset, config: TrainConfig, options: _Options) -> TextResult:
    if data.warning and options.progress:
        say(f"NOTE: {data.warning}")
    run = Run(model, data, config, options.callbacks, options.run_dir, options.resume)
    try:
        complete = has_result(run, FILES)
        (history,) = fit_together([run], options.progress)
        result = TextResult(model, history, data, options.kind, config.kl_weight)
        if run.folder is not None and not complete:
            save_or_say(result, Path(run.folder))
        return result
    finally:
        run.release()
