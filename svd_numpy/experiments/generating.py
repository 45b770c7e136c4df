"""`generate`: a trained network goes on with a text."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count, check_number, check_type
from svd_numpy.data.text import encode
from svd_numpy.network.model import Sequential
from svd_numpy.sparse.model import compress
from svd_numpy.sparse.recurrent import RecurrentModel


def generate(model: Any, prompt: str, length: int = 300, temperature: float = 1.0, seed: int = 0) -> str:
    """Let a network go on with a text.

    Parameters
    ----------
    model : Sequential or RecurrentModel
        Trained by `train_text`, or any that reads and predicts tokens of the same vocabulary, which it knows.
    prompt : str
        How the text begins: at least one letter. For a vocabulary of words, blanks stand between them.
    length : int
        Letters (words) to add.
    temperature : float
        Divides the logits: below 1 the likely letters become likelier; at 0 the likeliest one is taken.
    seed : int
        Of the draws.

    Returns
    -------
    str
        The prompt and what was added.

    Raises
    ------
    SvdValueError, SvdTypeError
        If the model has no vocabulary, or the prompt is empty or has letters that are not in it.
    """
    small = compress(model) if isinstance(model, Sequential) else model
    check_type("model", small, RecurrentModel)
    check_type("prompt", prompt, str)
    length, seed = check_count("length", length, low=0), check_count("seed", seed, low=0)
    temperature = check_number("temperature", temperature, low=0, high=1e3)
    if small.vocabulary is None:
        raise SvdValueError("model: it does not know what its tokens stand for; give its first layer their names")
    letters = all(len(token) == 1 for token in small.vocabulary)
    tokens = list(prompt) if letters else prompt.split()
    if not tokens:
        raise SvdValueError("prompt: got an empty one, expected at least one token to begin with")
    small.reset()
    rng, written = np.random.default_rng(seed), list(tokens)
    for token in encode(tokens, small.vocabulary, "prompt"):
        logits = small.step(int(token))
    if logits.shape != (len(small.vocabulary),):
        raise SvdValueError(
            f"model: got {logits.shape[0]} outputs, expected {len(small.vocabulary)}, one for each token"
        )
    for _ in range(length):
        if temperature == 0:
            chosen = int(logits.argmax())
        else:
            p = np.exp((logits - logits.max()) / temperature, dtype=np.float64)
            chosen = int(rng.choice(len(p), p=p / p.sum()))
        written.append(small.vocabulary[chosen])
        logits = small.step(chosen)
    small.reset()
    return ("" if letters else " ").join(written)
