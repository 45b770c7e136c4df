"""Pruning of weights while training: what a `TrainConfig` says about it, and what does it in a run.

A `Pruning` is a setting: a few numbers, which go into checkpoints as JSON. A `Pruner` does the work in one run. It acts
before and after the passes of a step and at its end, and after each step the network is the pruned one: scores,
sparsity, pictures and files need to know nothing of it. Whatever else it remembers is in its `arrays`, which
checkpoints store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from svd_numpy.checks import SvdTypeError, SvdValueError, check_choice, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.host import HostMemory
from svd_numpy.network.living import LivingCopy
from svd_numpy.network.model import Sequential

PRUNINGS: dict[str, type[Pruning]] = {}  # by the name that is written into checkpoints


@dataclass(frozen=True)
class Place:
    """What a pruner knows about its run."""

    steps_per_epoch: int
    n_train: int
    seed: int

    def step(self, epoch: float) -> int:
        """Number of steps done at a (fractional) epoch."""
        return round(epoch * self.steps_per_epoch)


class Pruner:
    """Prunes the weights of one run.

    Attributes
    ----------
    setting : str
        The field of `TrainConfig` that asks for it.
    variational : bool
        Whether layers may be variational.
    arrays : dict of name -> array
        What it remembers from step to step.
    """

    setting: ClassVar[str] = "pruning"
    variational: ClassVar[bool] = False

    def __init__(self, model: Sequential, place: Place) -> None:
        if model.variational_layers and not self.variational:
            names = [layer.name for layer in model.variational_layers]
            raise SvdValueError(
                f"{self.setting}: got a model whose layers {names} are variational, which prune themselves by "
                "log_alpha; expected ordinary layers (Dense, Conv2d)"
            )
        if not isinstance(model.backend, HostMemory):
            raise SvdValueError(
                f"{self.setting}: got a model on the backend {model.backend.name!r}, expected 'numba' or 'numpy'"
            )
        self.backend = model.backend
        self.arena, self.place = model.arena, place
        self.weights = [f"{name}.theta" for name in model.alive()]
        self.arrays: dict[str, Array] = {}

    def holds(self, step: int) -> bool:
        """Whether this step leaves numbers alone whose mask is 0."""
        return True

    def before_forward(self, step: int) -> None:
        """Do what comes before the passes of this step; steps count from 0."""

    def before_update(self, step: int, lr: float) -> None:
        """Do what comes after the gradients of this step and before Adam, whose learning rate is `lr`."""

    def after_update(self, done: int) -> None:
        """Do what comes after Adam; `done` steps are done, this one included."""

    def on(self, copy: LivingCopy) -> Pruner:
        """Return one that does the same on a small copy of the network; only where `TrainConfig` allows removal."""
        raise NotImplementedError

    def exchange(self, small: Pruner, copy: LivingCopy, back: bool) -> None:
        """Give what it remembers to the one of a small copy, or take it back."""

    def decay(self, l2: float) -> None:
        """Add the gradient of l2 / 2 * sum theta^2."""
        if l2:
            for name in self.weights:
                self.arena.grad_views[name] += l2 * self.arena.views[name]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How to prune ordinary weights; the base of such settings, whose epochs are counted like those of schedules."""

    kind: ClassVar[str]
    epochs: ClassVar[tuple[str, ...]] = ()  # fields that are epochs

    def __init_subclass__(cls) -> None:
        if cls.kind:  # else a base of others
            PRUNINGS[cls.kind] = cls

    def pruner(self, model: Sequential, place: Place) -> Pruner:
        """Make what prunes in one run."""
        raise NotImplementedError

    def stretched(self, factor: float) -> Pruning:
        """Return the same pruning with all epochs times a factor."""
        return replace(self, **{name: getattr(self, name) * factor for name in self.epochs})

    def ending_at(self, sparsity: float) -> Pruning:
        """Return the same pruning with another sparsity at the end; raise if it cannot be chosen."""
        raise SvdValueError(f"sparsity: got {sparsity}, but {self.kind!r} finds its own; leave it out")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON would return them (tuples become lists)."""
        return {"kind": self.kind, **{name: _listed(value) for name, value in asdict(self).items()}}

    def check_window(self, start: float, stop: float) -> None:
        """Raise unless two epochs are in order."""
        check_number("start", start, low=0)
        if not check_number("stop", stop) > start:
            raise SvdValueError(f"stop: got epoch {stop:g}, expected one after start, {start:g}")


def check_pruning(name: str, value: Any) -> Pruning | None:
    """Return a pruning, also from what `to_json` returned."""
    if isinstance(value, Mapping):
        settings = dict(value)
        kind = PRUNINGS[check_choice(f"{name} kind", settings.pop("kind", None), PRUNINGS)]
        if unknown := set(settings) - {field.name for field in fields(kind)}:
            raise SvdValueError(f"{name}: got unknown settings {sorted(unknown)} for {kind.kind!r}")
        return kind(**settings)
    if value is not None and not isinstance(value, Pruning):
        raise SvdTypeError(
            f"{name}: got {value!r} of type {type(value).__name__}, expected None or a Pruning such as "
            "GradualMagnitude(start=6, stop=42, sparsity=0.95)"
        )
    return value


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value
