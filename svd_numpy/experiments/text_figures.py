"""The figures of a network that was trained on text, given the network and its history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from svd_numpy import plots
from svd_numpy.experiments.words import reads_words, weigh_words
from svd_numpy.network.model import Sequential
from svd_numpy.sparse.recurrent import count_live, count_weights, gates_left

_GATES = {4: ("input i", "forget f", "candidate g", "output o"), 3: ("reset r", "update z", "candidate n")}


def text_figures(model: Sequential, history: Sequence[dict[str, Any]]) -> dict[str, Callable[[], Any]]:
    """Functions that draw the figures of a recurrent network.

    Returns
    -------
    dict of str to function () -> Figure
        "losses", if the epochs have a validation NLL; for a sparse network also "left", "gates_LAYER" for each
        recurrent layer, and "words" if it judges sentences.
    """
    figures: dict[str, Callable[[], Any]] = {}
    of_words = reads_words(model)
    if any(record.get("valid_nll") is not None for record in history):
        unit = "sentence" if of_words else "step"
        figures["losses"] = partial(plots.loss_curves, {"this run": history}, unit)
    if not model.variational_layers:
        return figures
    counts = count_weights(model) | count_live(model)
    kept, total = (sum(pair[side] for pair in count_weights(model).values()) for side in (0, 1))
    figures["left"] = partial(plots.shares_left, counts, title=f"{kept:,} of {total:,} weights are left")
    for name, (weights, values, live) in gates_left(model).items():
        names = _GATES[len(weights)]
        figures[f"gates_{name}"] = partial(plots.gate_map, weights, values, live, names, title=f"The gates of {name}")
    if of_words and (gains := weigh_words(model)):
        figures["words"] = partial(plots.words_left, gains, title=f"{len(gains)} words are left")
    return figures
