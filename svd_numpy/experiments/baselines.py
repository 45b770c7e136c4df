"""The recipes of methods that prune ordinary weights, or none: from a recipe of Sparse VD for the same architecture.

Each trains for as many epochs as Sparse VD. Its own epochs are shares of those.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from svd_numpy.experiments.recipes import Recipe, stretch
from svd_numpy.train.ivon import IVON
from svd_numpy.train.magnitude import GradualMagnitude, MagnitudeRounds
from svd_numpy.train.pruning import Pruning
from svd_numpy.train.schedules import Knots
from svd_numpy.train.sharing import WeightSharing
from svd_numpy.train.surgery import Surgery

L2 = 1e-4  # without it, weights of pixels that are always dark keep their initial size
# Total sparsity after each round: 92 % is where Han et al. 2015 stop with both LeNets.
ROUNDS = (0.5, 0.75, 0.87, 0.92, 0.95, 0.97, 0.985)
# tau. On 5,000 held-out images, one seed of lenet-300-100: .03 has 9 times fewer weights, .2 13 at 1.34 % error, .7 22
# at 2.28 %. Theirs, .003, was for a network that had been trained before. With few images, .03: the digits lose too
# many with .4.
SHARING, SHARING_FEW = 0.4, 0.03
FIRST_ROUND, LAST_ROUND = 0.3, 0.9  # shares of the epochs
# Of each layer. lenet-300-100: about as many weights are left as in Guo et al. 2016, table 2 (on 5,000 held-out images,
# one seed: 57.6 times fewer, 1.68 % error). lenet-5: not yet searched.
SURGERY_C = {"lenet-300-100": (6.5, 5.0, 2.5), "lenet-5": (1.0, 3.0, 5.0, 2.0)}
# For recipes of few images, and so of few steps: with those above, the digits keep a third as many weights, too few.
SURGERY_C_FEW = {"lenet-300-100": (5.0, 4.0, 2.0)}


def ordinary(plan: Recipe) -> Recipe:
    """Return the recipe of ordinary weights: no KL, no fine-tuning, one stage of as many epochs."""
    if plan.pretrain is None:
        config = replace(plan.config, finetune_epochs=0, remove_above=None)
    else:
        config = stretch(plan.pretrain, plan.pretrain.total_epochs + plan.config.total_epochs)
    return replace(plan, config=config, pretrain=None)


def magnitude(plan: Recipe) -> Recipe:
    """Han et al. 2015: a dense network, then rounds of pruning and retraining with a tenth of the learning rate."""
    schedule = ((0.2, 1.0), (FIRST_ROUND, 0.1), (LAST_ROUND, 0.1), (1.0, 0.0))
    return _pruned(plan, MagnitudeRounds(rounds=_rounds(), scale="layer", l2=L2), schedule)


def magnitude_rewind(plan: Recipe) -> Recipe:
    """Renda et al. 2020: the learning rate is rewound after each pruning, and weights compete over all layers."""
    starts = [0.0, *(share for share, _ in _rounds())]
    schedule: list[tuple[float, float]] = []
    for start, end in zip(starts, [*starts[1:], 1.0], strict=True):
        schedule += [(start + 1e-9, 1.0), (start + 0.4 * (end - start), 1.0), (end, 0.01)]
    return _pruned(plan, MagnitudeRounds(rounds=_rounds(), l2=L2), tuple(schedule))


def gradual_magnitude(plan: Recipe) -> Recipe:
    """Zhu & Gupta 2017: along a cubic curve from 10 % to 70 % of the training."""
    return _pruned(
        plan, GradualMagnitude(start=0.1, stop=0.7, sparsity=ROUNDS[-1], every=100, l2=L2), ((0.7, 1.0), (1.0, 0.0))
    )


def ivon(plan: Recipe) -> Recipe:
    """Shen et al. 2024: improved variational online Newton, pruned along the curve of `gradual_magnitude`.

    Chosen on 5,000 held-out images of MNIST. After 140 epochs of lenet-300-100, 67 times fewer weights err on 1.3 %;
    with three times the l2 and a learning rate that falls later, on 1.6 %; with a curvature that is forgotten faster
    than `IVON` does by itself, training diverges after 20 epochs. For a few thousand images, settings of their own.
    """
    few = plan.images < 10_000
    settings: dict[str, Any] = {"l2": 1e-3, "std_start": 0.037} if few else {}
    pruning = IVON(start=0.1, stop=0.7, sparsity=ROUNDS[-1], every=100, **settings)
    recipe = _pruned(plan, pruning, ((0.5 if few else 0.1, 1.0), (1.0, 0.0)))
    return replace(recipe, config=replace(recipe.config, lr=0.1 if few else 0.05))


def surgery(plan: Recipe) -> Recipe:
    """Guo et al. 2016: a dense network, then surgeries, which become rare, then training of what is left."""
    of_layers = SURGERY_C if plan.images >= 60_000 else SURGERY_C_FEW
    pruning = Surgery(start=0.2, stop=0.7, c=of_layers.get(plan.arch, (2.0,)), l2=L2)
    return _pruned(plan, pruning, ((0.7, 1.0), (1.0, 0.0)))


def weight_sharing(plan: Recipe) -> Recipe:
    """Ullrich et al. 2017: a dense network, retrained with a mixture prior, then quantised.

    The mixture learns faster than theirs, and faster still where there are few images, and so few steps: the component
    at 0 must get narrow before the weights are quantised.
    """
    fewer = max(1.0, 60_000 / plan.images)
    rate = max(5.0, fewer)
    tau = SHARING if plan.images >= 60_000 else SHARING_FEW / fewer
    pruning = WeightSharing(
        start=0.3, stop=0.97, strength=tau, l2=L2, lr_means=1e-4 * rate, lr_shapes=min(0.1, 3e-3 * rate)
    )
    return _pruned(plan, pruning, ((0.2, 1.0), (0.3, 0.1), (0.35, 0.5), (0.8, 0.5), (1.0, 0.05)))


def _rounds() -> Knots:
    length = (LAST_ROUND - FIRST_ROUND) / (len(ROUNDS) - 1)
    return tuple((FIRST_ROUND + i * length, sparsity) for i, sparsity in enumerate(ROUNDS))


def _pruned(plan: Recipe, pruning: Pruning, lr_schedule: Knots) -> Recipe:
    """Return the recipe of ordinary weights with a pruning and a schedule whose epochs are shares of its own."""
    plain = ordinary(plan)
    epochs = plain.config.epochs
    schedule = tuple((share * epochs, factor) for share, factor in lr_schedule)
    config = replace(plain.config, lr_schedule=schedule, pruning=pruning.stretched(epochs))
    return replace(plain, config=config, source=f"{pruning.kind} with the epochs of the recipe {plan.name!r}")
