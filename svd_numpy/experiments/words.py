"""What the words that a network has kept say to it, each alone: `weigh_words`."""

from __future__ import annotations

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.network.model import Sequential
from svd_numpy.sparse.recurrent import live_tokens


def _padding(model: Sequential) -> int | None:
    found: int | None = getattr(getattr(model.layers[0], "tokens", None), "padding", None)
    return found


def reads_words(model: Sequential) -> bool:
    """Whether a network reads sentences of words that it knows, filled up with padding, and tells two classes apart."""
    return model.layers[0].vocabulary is not None and _padding(model) is not None and model.out_shape == (2,)


def weigh_words(model: Sequential) -> dict[str, float]:
    """How far each word that is left, read alone, moves a network of two classes towards the second one.

    Parameters
    ----------
    model : Sequential
        Trained by `train_sentiment`.

    Returns
    -------
    dict of str to float
        The word, and what it adds to the log odds of class 1, compared with a sentence of no words; the words with the
        largest weights come first. Near 0 are those that matter only among others, such as "not".

    Raises
    ------
    SvdValueError
        If the network does not read words, of which one is padding, or has other outputs.
    """
    if not reads_words(model):
        raise SvdValueError(
            "model: expected a network that reads words, knows which one is padding, and has two outputs, as "
            f"train_sentiment makes it; got one with outputs of shape {model.out_shape}"
        )
    vocabulary, padding = model.layers[0].vocabulary or (), _padding(model)
    assert padding is not None
    words = [token for token in live_tokens(model) if token != padding]
    x = np.full((len(words) + 1, model.in_shape[0]), padding, np.int64)
    x[:-1, -1] = words
    logits = model.predict(x).astype(np.float64)
    odds = logits[:, 1] - logits[:, 0]
    return {vocabulary[word]: float(gain) for word, gain in zip(words, odds[:-1] - odds[-1], strict=True)}
