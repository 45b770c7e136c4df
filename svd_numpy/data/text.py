"""Texts as data sets: `text_dataset`, letter by letter in lanes, and `sentence_dataset`, sentences of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, check_count, check_type
from svd_numpy.data.dataset import Dataset

PADDING, UNKNOWN = "<pad>", "<unknown>"  # the first two words of every vocabulary of words
_SHARES = (0.9, 0.95)  # where the training and the validation part of a text end


def encode(tokens: Sequence[str], vocabulary: Sequence[str], name: str = "text") -> NDArray[np.int64]:
    """Numbers of letters or words, array (len(tokens),).

    Words that a vocabulary does not have become `UNKNOWN` if it has that.

    Raises
    ------
    SvdValueError
        For a token that is not in the vocabulary.
    """
    known = {token: number for number, token in enumerate(vocabulary)}
    unknown = known.get(UNKNOWN)
    for place, token in enumerate(tokens):
        if token not in known and unknown is None:
            raise SvdValueError(
                f"{name}: got {token!r} at place {place}, which is not among the {len(known)} tokens of the "
                f"vocabulary; remove it, or train on a text that has it"
            )
    return np.array([known.get(token, unknown) for token in tokens], np.int64)


def _parts(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The training, validation and test part of a text."""
    return np.split(codes, [int(share * len(codes)) for share in _SHARES])


def arrange(parts: Mapping[str, NDArray[np.int64]], lanes: int, steps: int) -> dict[str, NDArray[np.int64]]:
    """Cut the letters of each part into lanes: x and y (N, steps), as `text_dataset` describes them."""
    arranged = {}
    for part, letters in parts.items():
        batches = (len(letters) - 1) // (lanes * steps)
        if batches < 1:
            raise SvdValueError(
                f"text: its {part} part has {len(letters):,} letters, expected at least lanes * steps + 1 = "
                f"{lanes * steps + 1:,}; give a longer text, or fewer lanes or steps"
            )
        for axis, first in (("x", 0), ("y", 1)):
            rows = letters[first : first + lanes * steps * batches].reshape(lanes, batches, steps)
            arranged[f"{axis}_{part}"] = np.ascontiguousarray(rows.swapaxes(0, 1).reshape(-1, steps))
    return arranged


def rearranged(data: Dataset, lanes: int, steps: int) -> Dataset:
    """Cut a text in lanes into other lanes and steps."""
    parts = {}
    for part in ("train", "valid", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        letters = x.reshape(-1, data.lanes, x.shape[1]).swapaxes(0, 1).ravel()  # lane after lane
        parts[part] = np.append(letters, y[-1, -1])
    rows: dict[str, Any] = arrange(parts, lanes, steps)
    return replace(data, **rows, lanes=lanes)


def text_dataset(text: str, lanes: int = 64, steps: int = 50, name: str = "text", source: str = "memory") -> Dataset:
    """Turn a text into a data set for predicting each next letter.

    The first 90 % are for training, the next 5 % for validation, the rest for testing. Each part is cut into `lanes`
    pieces of equal length, which are read side by side, `steps` letters at a time; fewer than ``lanes * steps`` letters
    at the end of a part are left out.

    Parameters
    ----------
    text : str
    lanes, steps : int
        Sequences that are trained side by side, and letters after which gradients are cut.
    name, source : str
        As in `Dataset`.

    Returns
    -------
    Dataset
        x and y (N, steps): letters, as their numbers in `vocabulary`, and the letters that follow; `lanes` is set.

    Raises
    ------
    SvdValueError, SvdTypeError
        If a part of the text is too short for one batch.
    """
    check_type("text", text, str)
    lanes, steps = check_count("lanes", lanes), check_count("steps", steps)
    vocabulary = tuple(sorted(set(text)))
    codes = encode(text, vocabulary)
    parts = dict(zip(("train", "valid", "test"), _parts(codes), strict=True))
    rows: dict[str, Any] = arrange(parts, lanes, steps)
    return Dataset(
        name, **rows, image_shape=None, n_classes=len(vocabulary), source=source, lanes=lanes, vocabulary=vocabulary
    )


def words_of(sentence: str) -> list[str]:
    """Cut a sentence into words, at blanks; in lower case."""
    return sentence.lower().split()


def sentence_dataset(
    sentences: Sequence[str], labels: Any, steps: int = 40, least: int = 2, seed: int = 0, name: str = "sentences",
    source: str = "memory",
) -> Dataset:  # fmt: skip
    """Turn labelled sentences into a data set of words.

    A tenth of the sentences, drawn at random, are for testing, another for validation. The vocabulary is that of the
    training sentences. Short sentences are filled up in front, so that all end at the last step; of longer ones, the
    first `steps` words are read.

    Parameters
    ----------
    sentences : sequence of str
        Words are what stands between blanks.
    labels : array (N,) of int
        From 0.
    steps : int
        Words of a row.
    least : int
        Words that occur less often among the training sentences count as unknown.
    seed : int
        Of the split.
    name, source : str
        As in `Dataset`.

    Returns
    -------
    Dataset
        x (N, steps): words, as their numbers in `vocabulary`; token 0 is the padding, 1 any unknown word.

    Raises
    ------
    SvdValueError, SvdTypeError
        For a sentence without words, or labels that do not fit.
    """
    words = [words_of(sentence) for sentence in sentences]
    if empty := [number for number, found in enumerate(words) if not found]:
        raise SvdValueError(f"sentences: number {empty[0]} has no words; remove it")
    labels = np.asarray(labels)
    if labels.shape != (len(words),):
        raise SvdValueError(f"labels: got shape {labels.shape}, expected ({len(words)},), one for each sentence")
    if len(words) < 10:
        raise SvdValueError(f"sentences: got {len(words)}, expected at least 10, of which a tenth is for testing")
    steps, least = check_count("steps", steps), check_count("least", least)
    order = np.random.default_rng(check_count("seed", seed, low=0)).permutation(len(words))
    held_out = len(words) // 10
    test, valid, train = order[:held_out], order[held_out : 2 * held_out], order[2 * held_out :]
    counts = Counter(word for number in train for word in words[number])
    frequent = sorted(word for word, count in counts.items() if count >= least and word not in (PADDING, UNKNOWN))
    vocabulary = (PADDING, UNKNOWN, *frequent)
    rows = np.zeros((len(words), steps), np.int64)
    for row, found in zip(rows, words, strict=True):
        row[max(0, steps - len(found)) :] = encode(found[:steps], vocabulary)
    return Dataset(
        name, rows[train], labels[train], rows[test], labels[test], None, int(labels.max()) + 1, source,
        x_valid=rows[valid], y_valid=labels[valid], vocabulary=vocabulary, padding=0,
    )  # fmt: skip
