"""Arguments shared by the experiments: each has one name, one meaning, one default and one check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from svd_numpy.checks import (
    SvdTypeError,
    SvdValueError,
    check_callbacks,
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_path,
    check_threshold,
    check_type,
)
from svd_numpy.experiments.architectures import KINDS
from svd_numpy.experiments.methods import DEFAULT, get_method
from svd_numpy.kernels import resolve_backend
from svd_numpy.network.model import Sequential
from svd_numpy.train.config import TrainConfig, check_shards
from svd_numpy.train.loop import Callback
from svd_numpy.train.ranks import ALONE, Ranks
from svd_numpy.train.trackers import trackers

Start = Sequential | Mapping[str, Any] | str | Path | None


class Keywords(TypedDict, total=False):
    """Keywords of `train_mnist` and `train_cifar` that have the same type whether there is one run or several."""

    dataset: str
    arch: str
    recipe: str
    method: str
    kind: str
    epochs: int | None
    batch_size: int | None
    seed: int
    random_labels: bool
    init_from: Start
    backend: str
    data_dir: str | Path | None
    run_dir: str | Path | None
    resume: bool
    extend: int
    remove_above: float | None
    sparsity: float | None
    finetune_bits: int | None
    held_out: float
    changes: Mapping[str, Any] | None
    progress: bool
    eval_every: int
    callbacks: Sequence[Callback]
    log: Sequence[str]
    shards: int
    ranks: Ranks


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of one run of an experiment on images; the fields are documented in `train_mnist` and `train_cifar`.

    Raises
    ------
    SvdValueError, SvdTypeError
        For values that make no sense. Names of architecture, recipe and data set are checked when looked
        up.
    """

    dataset: str
    arch: str
    width: float = 1.0
    recipe: str = "default"
    method: str = DEFAULT
    kind: str = "variational"
    epochs: int | None = None
    batch_size: int | None = None
    kl_weight: float = 1.0
    remove_above: float | None = None
    sparsity: float | None = None
    finetune_bits: int | None = None
    held_out: float = 0.0
    changes: Mapping[str, Any] | None = None
    seed: int = 0
    random_labels: bool = False
    init_from: Start = None
    backend: str = "auto"
    data_dir: str | Path | None = None
    run_dir: str | Path | None = None
    resume: bool = False
    extend: int = 0
    progress: bool = True
    eval_every: int = 1
    callbacks: Sequence[Callback] = ()
    log: Sequence[str] = ()
    shards: int = 1
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        check_type("ranks", self.ranks, Ranks)
        kind = check_choice("kind", self.kind, KINDS)
        method = get_method(self.method)
        if self.method != DEFAULT:
            kind = method.kind
        penalised = "variational" if method.gated else kind  # gates have a KL even where weights have none
        checked = {
            "kind": kind,
            "width": check_number("width", self.width, low=0.01, high=16),
            "kl_weight": check_kl_weight(self.kl_weight, penalised, self.network),
            "remove_above": check_removal(self.remove_above, penalised, self.network),
            "held_out": check_number("held_out", self.held_out, low=0, high=0.5),
            "changes": check_changes(self.changes),
            "seed": check_count("seed", self.seed, low=0),
            "random_labels": check_flag("random_labels", self.random_labels),
            "backend": resolve_backend(self.backend),
            "run_dir": check_path("run_dir", self.run_dir),
            "resume": check_resume(self.resume, self.run_dir),
            "extend": check_count("extend", self.extend, low=0),
            "progress": check_flag("progress", self.progress) and self.ranks.rank == 0,
            "eval_every": check_count("eval_every", self.eval_every, low=0),
            "callbacks": check_callbacks(self.callbacks),
            "log": [tracker.name for tracker in trackers(self.log, self.run_dir)],
            "shards": check_shards("shards", self.shards),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def network(self) -> str:
        """What the user has asked for, in words: a method, or a kind of network."""
        return f"kind {self.kind!r}" if self.method == DEFAULT else f"method {self.method!r}"

    @property
    def folder(self) -> Path | None:
        """The run_dir as a Path on the rank that writes; None on others."""
        return None if self.run_dir is None or self.ranks.rank else Path(self.run_dir)


def check_resume(value: Any, run_dir: Any) -> bool:
    """Check whether to go on with a run; only one that has a folder can be gone on with."""
    if check_flag("resume", value) and run_dir is None:
        raise SvdValueError("resume=True needs run_dir, the folder of the run to continue")
    return bool(value)


def check_kl_weight(value: Any, kind: str, network: str = "") -> float:
    """Check the factor on the KL; only a network with a KL can have one other than 1. Errors call it `network`."""
    kl_weight = check_number("kl_weight", value, low=0, high=1000)
    if kind != "variational" and kl_weight != 1:
        raise SvdValueError(f"kl_weight: got {kl_weight:g}, but {network or f'kind {kind!r}'} has no KL; leave it out")
    return kl_weight


def check_removal(value: Any, kind: str, network: str) -> float | None:
    """Check the log alpha above which weights are removed: None takes the recipe's, infinity removes none."""
    if value is None or (isinstance(value, float) and value == math.inf):
        return value
    if kind != "variational":
        raise SvdValueError(f"remove_above: got {value!r}, but {network} has no log alpha; leave it out")
    return check_threshold("remove_above", value)


def check_changes(value: Any) -> dict[str, Any]:
    """Check numbers that replace those of a recipe: fields of `TrainConfig` that no other argument sets."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SvdTypeError(f"changes: got {type(value).__name__}, expected a mapping such as {{'lr': 3e-4}}")
    allowed = [each.name for each in fields(TrainConfig) if each.name not in Options.__dataclass_fields__]
    for name in value:
        if name not in allowed:
            raise SvdValueError(f"changes: got {name!r}, expected some of {', '.join(allowed)}")
    return dict(value)
