"""What a first layer that reads tokens (letters, words) knows about them: how many, their names, and the padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_count
from svd_numpy.kernels.backend import Array
from svd_numpy.network.layers.base import Pass


class Tokens:
    """The vocabulary of a layer.

    Parameters
    ----------
    given : int, or sequence of str
        Number of tokens, or what each stands for, all different.
    padding : int, optional
        The token that is no input: steps with it leave the state of recurrent layers as it is.

    Attributes
    ----------
    count : int
    names : tuple of str, or None
    padding : int or None
    """

    def __init__(self, given: Any, padding: int | None) -> None:
        self.names: tuple[str, ...] | None = None
        if isinstance(given, str | Sequence):
            names = tuple(given)
            if not all(isinstance(name, str) for name in names):
                raise SvdTypeError(f"vocabulary: got {given!r}, expected a number of tokens or their names, as str")
            if not names or len(set(names)) < len(names):
                raise SvdValueError(f"vocabulary: got {len(names)} names, expected at least one, and all different")
            self.names = names
        self.count = check_count("vocabulary", given if self.names is None else len(self.names))
        self.padding = None if padding is None else check_count("padding", padding, low=0, high=self.count - 1)

    def config(self) -> Any:
        """What it was made from, JSON-ready."""
        return self.count if self.names is None else list(self.names)

    def mark(self, x: Array, run: Pass) -> None:
        """Tell the layers behind which steps of x (B, T) are not padding."""
        run.present = None
        if self.padding is not None:
            run.backend.to_host(x)
            run.present = np.asarray(x != self.padding, np.uint8)
