"""The texts that `load` knows: Tiny Shakespeare, sentence polarity, and made-up reviews that need no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from svd_numpy.data.dataset import Dataset
from svd_numpy.data.pinned import FILE_SETS
from svd_numpy.data.sources import read_verified
from svd_numpy.data.text import sentence_dataset, text_dataset

_NOTE = "These reviews are made up from a few dozen words: they show how things work, not how well."
_THINGS = ("film", "plot", "cast", "music", "ending", "story", "script", "camera", "hero", "dialogue")
_PRAISE = ("wonderful", "moving", "clever", "funny", "brilliant", "charming", "fresh")
_BLAME = ("boring", "clumsy", "stale", "predictable", "dull", "tedious", "pointless")
_HOW = ("really", "quite", "simply", "utterly", "often", "rather")
_BEGINS = ("i thought that", "most people say that", "after an hour it was clear that", "everyone knows that", "")
_ENDS = ("from start to finish", "in every scene", "as one would expect", "for all ages", "")


def read_letters(paths: list[Path], lanes: int = 64, steps: int = 50) -> Dataset:
    """Read Tiny Shakespeare."""
    file_set = FILE_SETS["tinyshakespeare"]
    text = read_verified(file_set, file_set.files[0], paths[0]).tobytes().decode()
    source = f"{paths[0].parent} (SHA-256 verified)"
    return text_dataset(text, lanes, steps, "tinyshakespeare", source)


def read_polarity(paths: list[Path]) -> Dataset:
    """Read the sentences of film reviews: label 1 praises, 0 pans. Pang and Lee, ACL 2005."""
    file_set, sentences, labels = FILE_SETS["rt-polarity"], list[str](), list[int]()
    for spec, path, label in zip(file_set.files, paths, (1, 0), strict=True):
        lines = read_verified(file_set, spec, path).tobytes().decode().splitlines()
        found = [line for line in lines if line.strip()]
        sentences += found
        labels += [label] * len(found)
    return sentence_dataset(sentences, labels, name="rt-polarity", source=f"{paths[0].parent} (SHA-256 verified)")


READERS: dict[str, Callable[[list[Path]], Dataset]] = {"tinyshakespeare": read_letters, "rt-polarity": read_polarity}


def _reviews(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Made-up sentences and whether each praises: mostly by an adjective, which "not" turns round."""
    rng = np.random.default_rng(seed)
    sentences, labels = list[str](), list[int]()
    for _ in range(count):
        praises, negated = int(rng.integers(2)), rng.random() < 0.2
        adjective = rng.choice(_PRAISE if praises != negated else _BLAME)
        words = [rng.choice(_BEGINS), "the", rng.choice(_THINGS), "is", "not" if negated else rng.choice(_HOW)]
        sentences.append(" ".join(word for word in (*words, adjective, rng.choice(_ENDS)) if word))
        labels.append(praises)
    return sentences, labels


def generated_sentences() -> Dataset:
    """Return 2,000 made-up reviews, of which half praise: words, with labels."""
    sentences, labels = _reviews(2000, 0)
    source = "svd_numpy (made up)"
    return replace(sentence_dataset(sentences, labels, 20, name="reviews", source=source), warning=_NOTE)


def generated_text(lanes: int = 16, steps: int = 50) -> Dataset:
    """Return a text of about 100,000 letters, made of such reviews, one a line."""
    text = "".join(f"{sentence}\n" for sentence in _reviews(2000, 1)[0])
    return replace(text_dataset(text, lanes, steps, "reviews-text", "svd_numpy (made up)"), warning=_NOTE)
