"""Embeddings: a row of numbers for each token (letter, word)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_count, check_number
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.priors import LOG_SIGMA2_MAX, LOG_SIGMA2_MIN
from svd_numpy.network.layers.base import Pass
from svd_numpy.network.layers.sampled import SampledWeights
from svd_numpy.network.layers.signs import SignedNoise
from svd_numpy.network.layers.tokens import Tokens
from svd_numpy.network.layers.weighted import Part, Weighted
from svd_numpy.network.params import ParamSpec


class Embedding(Weighted):
    """y[b, t] = theta[x[b, t]], for tokens x (B, T) from 0; the first layer of a network.

    Parameters
    ----------
    vocabulary : int, or sequence of str
        Number of tokens, or what they stand for: then they are stored with the network.
    features : int
        Numbers per token.
    padding : int, optional
        The token that only fills up short sequences: recurrent layers behind skip steps with it.
    theta_std : float, optional
        Standard deviation of the initial theta; default 1 / sqrt(features).
    name : str, optional
    """

    kind = "embedding"
    axes = {"theta": ("in", "out"), "log_sigma2": ("in", "out")}  # noqa: RUF012
    needs_recurrence = True

    def __init__(
        self, vocabulary: int | Sequence[str], features: int, padding: int | None = None,
        theta_std: float | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        self.tokens = Tokens(vocabulary, padding)
        self.takes_tokens, self.vocabulary = self.tokens.count, self.tokens.names
        self.features = check_count("features", features)
        super().__init__(self.tokens.count, False, features**-0.5 if theta_std is None else theta_std, name)
        self.theta_shape = (self.tokens.count, features)

    def config(self) -> dict[str, Any]:
        """See `Layer.config`."""
        config = super().config()
        del config["bias"]
        return {
            **config, "vocabulary": self.tokens.config(), "features": self.features, "padding": self.tokens.padding,
        }  # fmt: skip

    def resized(self, n_in: int, n_out: int) -> dict[str, Any]:
        """See `Layer.resized`: all tokens stay, since they are numbered."""
        return {**self.config(), "features": n_out}

    def build(self, in_shape: tuple[int, ...], rng: np.random.Generator) -> tuple[tuple[int, ...], list[ParamSpec]]:
        """See `Layer.build`."""
        if len(in_shape) != 1 or self.index:
            raise SvdValueError(
                f"layer {self.name!r}: got inputs of shape {in_shape} at place {self.index}, expected tokens (T,) at "
                "place 0; make it the first layer, with input_shape=(T,)"
            )
        return (*in_shape, self.features), self._specs(rng)

    def _signs(self, sequences: int, run: Pass) -> SignedNoise | None:
        """What noise adds, sequence by sequence: nothing to ordinary weights."""
        return None

    def _spread_gradients(self, run: Pass) -> None:
        """Do what remains once d_theta is there: nothing for ordinary weights."""

    def forward(self, x: Array, run: Pass) -> Array:
        """Tokens x (B, T) -> y (B, T, features)."""
        assert run.backend.recurrence is not None
        self.tokens.mark(x, run)
        self._x, self._tokens = x.reshape(-1), x
        y = self.memory.get("y", (*x.shape, self.features), self.theta.dtype)
        run.backend.recurrence.take_rows(self._used_theta(run), self._x, None, y.reshape(-1, self.features))
        self._own = self._signs(len(x), run)
        if self._own is not None:
            self._own.add_tokens(run.backend.recurrence, x, y)
        return y

    def backward(self, dy: Array, run: Pass, want_dx: bool) -> Array | None:
        """dy (B, T, features); there is no gradient for tokens."""
        assert run.backend.recurrence is not None
        run.backend.recurrence.take_rows_backward(self._x, dy.reshape(-1, self.features), self.d_theta)
        if self._own is not None:
            self._own.pull_tokens(run.backend.recurrence, self._tokens, dy, self.tokens.count)
        self._spread_gradients(run)
        return None


class VariationalEmbedding(SampledWeights, Embedding):
    """Embedding whose numbers are Gaussians N(theta, exp(log_sigma2)), sampled once for a batch.

    A token none of whose numbers is left means nothing to the network: it can be struck from the vocabulary (Chirkova,
    Lobacheva, Vetrov 2018).

    Parameters
    ----------
    vocabulary, features, padding, theta_std, name
        As in `Embedding`.
    log_sigma2 : float
        Initial value of every log_sigma2 (the authors' code: -6).
    groups : sequence of str
        ("words",): the numbers of a word share a random factor, so that a word leaves as a whole.
    family : str
        Distribution of the factors, as in `Gate`.
    noise : "batch" or "sequence"
        As in `VariationalLSTM`.
    """

    def __init__(
        self, vocabulary: int | Sequence[str], features: int, padding: int | None = None,
        theta_std: float | None = None, log_sigma2: float = -6.0, groups: Sequence[str] = (),
        family: str = "normal-jeffreys", noise: str = "batch", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(vocabulary, features, padding, theta_std, name)
        self.start_log_sigma2 = check_number("log_sigma2", log_sigma2, LOG_SIGMA2_MIN, LOG_SIGMA2_MAX)
        self._group(groups, family)
        self._set_noise(noise)

    def _parts(self) -> dict[str, Part]:
        return {"words": (0, slice(0, self.theta_shape[0]))}

    def _sampled_rows(self) -> Array:
        return np.unique(self._x)
