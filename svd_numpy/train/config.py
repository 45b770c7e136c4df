"""`TrainConfig`: how to train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from svd_numpy.checks import SvdValueError, check_all_bits, check_count, check_flag, check_number, check_threshold
from svd_numpy.train.pruning import Pruning, check_pruning
from svd_numpy.train.schedules import Knots, check_knots


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes
    ----------
    epochs : int
        Epochs of variational training.
    batch_size : int
    lr : float
        Adam's learning rate.
    lr_schedule : knots (epoch, factor)
        The learning rate is lr * factor; straight lines between knots.
    kl_schedule : knots (epoch, weight)
        Weight of the KL term; 1 is the evidence lower bound.
    kl_weight : float
        Factor on the whole `kl_schedule`, and on `finetune_kl`: a larger one makes sparser networks.
    beta1, beta2, epsilon : float
        Adam's other settings.
    train_mask : bool
        Leave weights above the threshold out of the mean even while training (the authors' `train_clip`).
    finetune_epochs : int
        Epochs of masked fine-tuning at the end: only the surviving weights, without noise and without KL
        (but see `finetune_kl`).
    finetune_lr : float
        Initial learning rate of the fine-tuning; it falls to 0 linearly.
    finetune_threshold : float
        Weights whose log_alpha is above it are removed before the fine-tuning.
    finetune_moves : bool
        Whether images are shifted and mirrored in the fine-tuning, too. Networks of few weights may win without: they
        learn the images as they are at last.
    finetune_kl : float, optional
        Fine-tune with noise, and with this weight of the KL: the noise keeps survivors from overfitting, and they keep
        their posterior. None: neither noise nor KL.
    finetune_bits : int, or mapping of array name to int, optional
        Fine-tune with weights and biases rounded to multiples of a power of two, which `pack` finds: 2 to 24 bits, sign
        included, for every array, or for those that a mapping names ("dense1.theta").
    remove_above : float, optional
        At the end of every variational epoch, weights whose log_alpha is above it are removed for good, with their
        noise, and so are those that feed or read nothing but units closed by a `Gate`; training goes on without
        them, and gets faster. None removes nothing before the fine-tuning.
    remove_from : int
        Number of epochs before the first removal.
    seed : int
        Seed of the order of the examples, and of the shifts and reflections of images.
    eval_every : int
        Measure the test error (and the validation error) every so many epochs; 0: only after the last.
    shift : int
        Shift each training image, anew at every step, by -shift..shift pixels down and to the right; what enters from
        outside is the model's input_mean. (Same as padding by `shift` and cropping at random, He et al. 2016.)
    mirror : bool
        Mirror each training image left to right with probability 1/2, anew at every step.
    clip_norm : float
        Largest norm of the gradient of the NLL, all parameters taken together; a longer one is shortened to it. Meant
        for recurrent networks, whose gradients may explode. 0: any.
    patience : int
        Stop when the validation NLL has not improved for so many epochs; 0: never. The network ends with the weights
        of the best epoch that was watched, even if all epochs are done. Only the last stage is watched: the
        fine-tuning if there is any, else what comes after the last knot of `kl_schedule`, because while the KL weight
        rises every epoch is sparser, and usually worse, than the one before. Needs validation rows (`Dataset.split`).
    pruning : Pruning, optional
        How to prune ordinary weights while training (`MagnitudeRounds`, `GradualMagnitude`, `Surgery`,
        `WeightSharing`); not with the settings that prune variational ones.
    shards : int
        Cut every batch into so many parts, a power of two, whose gradients are computed apart and then added in a fixed
        order. Several processes can share them (`fit`: ranks), and their number does not change a bit; that of the
        shards does.
    """

    epochs: int = 60
    batch_size: int = 100
    lr: float = 1e-3
    lr_schedule: Knots = ((0.0, 1.0),)
    kl_schedule: Knots = ((0.0, 1.0),)
    kl_weight: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    train_mask: bool = False
    finetune_epochs: int = 0
    finetune_lr: float = 1e-3
    finetune_threshold: float = 3.0
    finetune_moves: bool = True
    finetune_kl: float | None = None
    finetune_bits: int | Mapping[str, int] | None = None
    remove_above: float | None = None
    remove_from: int = 0
    seed: int = 0
    eval_every: int = 0
    shift: int = 0
    mirror: bool = False
    clip_norm: float = 0.0
    patience: int = 0
    pruning: Pruning | None = None
    shards: int = 1

    def __post_init__(self) -> None:
        checked = {
            "epochs": check_count("epochs", self.epochs, low=0),
            "batch_size": check_count("batch_size", self.batch_size),
            "lr": check_number("lr", self.lr, low=0, high=10),
            "lr_schedule": check_knots("lr_schedule", self.lr_schedule),
            "kl_schedule": check_knots("kl_schedule", self.kl_schedule),
            "kl_weight": check_number("kl_weight", self.kl_weight, low=0, high=1000),
            "beta1": check_number("beta1", self.beta1, low=0, high=0.999999),
            "beta2": check_number("beta2", self.beta2, low=0, high=0.999999),
            "epsilon": check_number("epsilon", self.epsilon, low=1e-16, high=1),
            "train_mask": check_flag("train_mask", self.train_mask),
            "finetune_epochs": check_count("finetune_epochs", self.finetune_epochs, low=0),
            "finetune_lr": check_number("finetune_lr", self.finetune_lr, low=0, high=10),
            "finetune_threshold": check_threshold("finetune_threshold", self.finetune_threshold),
            "finetune_moves": check_flag("finetune_moves", self.finetune_moves),
            "finetune_kl": None if self.finetune_kl is None else check_number("finetune_kl", self.finetune_kl, 0, 1000),
            "finetune_bits": check_all_bits("finetune_bits", self.finetune_bits),
            "remove_above": None if self.remove_above is None else check_threshold("remove_above", self.remove_above),
            "remove_from": check_count("remove_from", self.remove_from, low=0),
            "seed": check_count("seed", self.seed, low=0),
            "eval_every": check_count("eval_every", self.eval_every, low=0),
            "shift": check_count("shift", self.shift, low=0),
            "mirror": check_flag("mirror", self.mirror),
            "clip_norm": check_number("clip_norm", self.clip_norm, low=0, high=1e9),
            "patience": check_count("patience", self.patience, low=0),
            "pruning": check_pruning("pruning", self.pruning),
            "shards": check_shards("shards", self.shards),
        }
        for name, value in checked.items():  # plain Python numbers, which JSON can store
            object.__setattr__(self, name, value)
        if self.patience and not self.eval_every:
            raise SvdValueError(
                f"patience: got {self.patience} with eval_every=0, so no epoch is measured; expected eval_every >= 1"
            )
        if self.patience and self.watched_from >= self.total_epochs:
            raise SvdValueError(
                f"patience: got {self.patience}, but kl_schedule changes until epoch {self.watched_from:g}, so none of "
                f"{self.total_epochs} epochs is watched; let it end earlier, or leave patience out"
            )
        for name in ("finetune_kl", "finetune_bits"):
            if (value := getattr(self, name)) is not None and not self.finetune_epochs:
                raise SvdValueError(f"{name}: got {value} with finetune_epochs=0; expected finetune_epochs >= 1")
        if self.pruning is not None:
            for name, none in (("finetune_epochs", 0), ("remove_above", None), ("patience", 0)):
                if (value := getattr(self, name)) != none:
                    raise SvdValueError(
                        f"{name}: got {value} and pruning {self.pruning.kind!r}, which replaces it; leave one out"
                    )

    @property
    def watched_from(self) -> float:
        """Epoch after which `patience` watches the validation NLL."""
        if self.finetune_epochs:
            return self.epochs
        return self.kl_schedule[-1][0] if self.kl_weight else 0

    @property
    def total_epochs(self) -> int:
        """Variational plus fine-tuning epochs."""
        return self.epochs + self.finetune_epochs

    def extended(self, epochs: int) -> TrainConfig:
        """Return the same training with so many epochs more, at the end of its last stage.

        With fine-tuning, there is more of that, and its learning rate falls to 0 over all of it. Without, there are
        more variational epochs, and if the last knot of `lr_schedule` lies at the end, it moves to the new end. A
        finished run can be resumed with its extended configuration; it then goes on as this one does from that epoch.
        `extended(a).extended(b)` is `extended(a + b)`.
        """
        epochs = check_count("extended", epochs, low=0)
        if self.finetune_epochs:
            return replace(self, finetune_epochs=self.finetune_epochs + epochs)
        *knots, (last, factor) = self.lr_schedule
        if knots and math.isclose(last, self.epochs):
            last = self.epochs + epochs
        return replace(self, epochs=self.epochs + epochs, lr_schedule=(*knots, (last, factor)))

    def extends(self, settings: dict[str, Any]) -> int:
        """By how many epochs this extends a configuration, given as `to_json` returns it; 0 if it does not."""
        try:
            before = TrainConfig(**settings)
        except (TypeError, ValueError):
            return 0
        more = self.total_epochs - before.total_epochs
        return more if more > 0 and before.extended(more) == self else 0

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON would return them (tuples become lists)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **{name: [list(k) for k in value] if isinstance(value, tuple) else value for name, value in values.items()},
            "pruning": None if self.pruning is None else self.pruning.to_json(),
        }


def check_shards(name: str, value: Any) -> int:
    """Return a number of shards, a power of two."""
    shards = check_count(name, value, high=2**16)
    if shards & (shards - 1):
        raise SvdValueError(f"{name}: got {shards}, expected a power of two: 1, 2, 4, 8, ...")
    return shards
