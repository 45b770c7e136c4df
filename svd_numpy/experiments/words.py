"""What the words that a network has kept say to it, each alone: `weigh_words`."""

from __future__ import annotations

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.network.model import Sequential
from svd_numpy.sparse.recurrent import live_tokens


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
    first = model.layers[0]
    padding = getattr(getattr(first, "tokens", None), "padding", None)
    if first.vocabulary is None or padding is None or model.out_shape != (2,):
        raise SvdValueError(
            "model: expected a network that reads words, knows which one is padding, and has two outputs, as "
            f"train_sentiment makes it; got one with outputs of shape {model.out_shape}"
        )
    words = [token for token in live_tokens(model) if token != padding]
    x = np.full((len(words) + 1, model.in_shape[0]), padding, np.int64)
    x[:-1, -1] = words
    logits = model.predict(x).astype(np.float64)
    odds = logits[:, 1] - logits[:, 0]
    return {first.vocabulary[word]: float(gain) for word, gain in zip(words, odds[:-1] - odds[-1], strict=True)}
