"""KL divergence between a Gaussian weight posterior and its prior.

Every weight has the posterior ``N(theta, sigma^2)``. For most priors here (`RatioPrior`) the divergence depends on one
number only, the signal-to-noise ratio of the weight::

    rho = |theta| / sigma,        log_alpha = -2 log(rho)

Such a prior is two scalar functions: the value ``K(rho)`` and the slope ``v(rho) = K'(rho) / rho``. Both
gradients follow from the slope without dividing by a weight that may be exactly zero::

    dKL/dlog_sigma2 = -1/2 rho^2 v(rho)          dKL/dtheta = v(rho) theta / sigma^2

No epsilon is added and ``log_alpha`` is never clipped: results are finite for every finite input, including
``theta = 0`` and subnormal weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.kernels.exact_kl import exact_slope, exact_value

Array = NDArray[Any]

LOG_SIGMA2_MIN, LOG_SIGMA2_MAX = -20, 10  # bounds of every posterior's log variance: sigma from 4.5e-5 to 148

# Molchanov et al. 2017, eq. 14: the sigmoid fit of the log-uniform KL.
K1, K2, K3 = 0.63576, 1.87320, 1.48695


@dataclass(frozen=True)
class Prior:
    """A prior over one weight, as the divergence it gives.

    Attributes
    ----------
    name : str
        The name used in recipes and checkpoints.
    reference : str
        Source of the formula.
    """

    name: str
    reference: str

    def kl(self, theta: Array, log_sigma2: Array) -> Array:
        """Divergence of each weight, in nats, in their dtype; finite for finite arguments."""
        raise NotImplementedError

    def gradients(self, theta: Array, log_sigma2: Array) -> tuple[Array, Array]:
        """Derivatives of `kl` with respect to theta and log_sigma2; finite for finite arguments."""
        raise NotImplementedError


@dataclass(frozen=True)
class RatioPrior(Prior):
    """A prior whose divergence is a function of the signal-to-noise ratio alone.

    Attributes
    ----------
    value : callable
        ``K(rho)``: the divergence in nats.
    slope : callable
        ``v(rho) = K'(rho) / rho``, finite at ``rho = 0``.

    Notes
    -----
    Both functions take an array ``rho >= 0`` no larger than ``largest_rho(rho.dtype)`` and return its dtype.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]

    def kl(self, theta: Array, log_sigma2: Array) -> Array:
        """See `Prior.kl`."""
        rho, _ = _signal_to_noise(theta, log_sigma2)
        value = self.value(rho)
        limit = _limits(rho.dtype).rho
        if np.any(rho >= limit):  # beyond the limit K is log(rho) + constant
            log_rho = _log_magnitude(theta) - 0.5 * _clipped(log_sigma2)
            value = value + np.maximum(log_rho - np.log(limit), 0.0)
        return np.asarray(value)

    def gradients(self, theta: Array, log_sigma2: Array) -> tuple[Array, Array]:
        """See `Prior.gradients`."""
        rho, precision_root = _signal_to_noise(theta, log_sigma2)
        slope = self.slope(rho)
        pull = rho * rho * slope  # between 0 and about 1
        # theta / sigma^2 overflows where rho is large, but there it equals rho^2 / theta with theta not small.
        strong = rho >= 1.0
        weak_theta = np.where(strong, 0.0, theta).astype(rho.dtype)
        d_strong = pull / np.where(strong, theta, 1.0)
        d_theta = np.where(strong, d_strong, slope * _times_twice(weak_theta, precision_root))
        return d_theta.astype(rho.dtype), np.asarray(-0.5 * pull)


class NormalPrior(Prior):
    """N(0, 1): KL = (sigma^2 + theta^2 - 1 - log_sigma2) / 2.

    With it, a weight that the data do not need returns to N(0, 1) and keeps a large variance; it costs nothing then.
    """

    def kl(self, theta: Array, log_sigma2: Array) -> Array:
        """See `Prior.kl`; a number too large for the dtype counts as the largest one."""
        largest = np.finfo(theta.dtype).max
        log_sigma2 = self._clipped(log_sigma2)
        theta = np.minimum(np.abs(theta), theta.dtype.type(1.4) * np.sqrt(largest))
        half = theta / 2 * (theta / 2) + self._excess(log_sigma2) / 4
        return np.asarray(2 * np.minimum(half, largest / 2))

    def gradients(self, theta: Array, log_sigma2: Array) -> tuple[Array, Array]:
        """See `Prior.gradients`."""
        return np.array(theta), np.asarray(np.expm1(self._clipped(log_sigma2)) / 2)

    @staticmethod
    def _clipped(log_sigma2: Array) -> Array:
        """Log variances whose exponential is finite."""
        high = np.log(np.finfo(log_sigma2.dtype).max) - log_sigma2.dtype.type(0.01)
        return np.asarray(np.minimum(_clipped(log_sigma2), high))

    @staticmethod
    def _excess(x: Array) -> Array:
        """e^x - 1 - x, near 0 by its series, 2 x^k / (k + 2)! and so on, because the difference is all rounding."""
        near, series = np.clip(x, -0.5, 0.5), np.ones_like(x)
        for k in range(14, 2, -1):
            series = 1 + near / k * series
        return np.asarray(np.where(np.abs(x) < 0.5, near * near / 2 * series, np.expm1(x) - x))


def largest_rho(dtype: np.dtype[Any]) -> float:
    """Largest signal-to-noise ratio whose square is safely representable (2e17 in float32).

    Far below it every prior has reached ``K = log(rho) + constant`` and ``rho^2 v = 1`` to the last bit.
    """
    return float(_limits(np.dtype(dtype)).rho)


# --- ARD: each weight's prior variance is its optimum, theta^2 + sigma^2 (Kharitonov et al. 2018) ---


def _ard_value(rho: Array) -> Array:
    return np.asarray(0.5 * np.log1p(rho * rho))


def _ard_slope(rho: Array) -> Array:
    return 1.0 / (1.0 + rho * rho)


# --- Log-uniform, the paper's fit. With t = e^-k2 rho^(2 k3), sigmoid(k2 + k3 log_alpha) = 1 / (1 + t) ---


def _fit_powers(rho: Array) -> tuple[Array, Array]:
    """Return ``t`` and ``t / rho^2``; beyond the cap on rho both terms built from them are constant."""
    rho = np.minimum(rho, _limits(rho.dtype).fit_rho)
    scale = math.exp(-K2)
    return scale * rho ** (2.0 * K3), scale * rho ** (2.0 * K3 - 2.0)


def _log_uniform_value(rho: Array) -> Array:
    t, _ = _fit_powers(rho)
    return np.asarray(0.5 * np.log1p(rho * rho) + K1 * (t / (1.0 + t)))


def _log_uniform_slope(rho: Array) -> Array:
    t, t_over_rho2 = _fit_powers(rho)
    # Dividing twice instead of by (1 + t)^2, whose square overflows.
    return 1.0 / (1.0 + rho * rho) + (2.0 * K1 * K3) * t_over_rho2 / (1.0 + t) / (1.0 + t)


_RATIOS = (
    RatioPrior(
        "log_uniform",
        "Molchanov, Ashukha, Vetrov 2017, eq. 14 (fit, within .0095 nats of exact)",
        _log_uniform_value,
        _log_uniform_slope,
    ),
    RatioPrior(
        "log_uniform_exact",
        "the integral that Molchanov et al. 2017 fit, in terms of the Dawson function",
        exact_value,
        exact_slope,
    ),
    RatioPrior("ard", "Kharitonov, Molchanov, Vetrov 2018", _ard_value, _ard_slope),
)
_NORMAL = NormalPrior("normal", "the standard normal distribution (Louizos, Ullrich, Welling 2017, for weights)")
PRIORS: dict[str, Prior] = {prior.name: prior for prior in (*_RATIOS, _NORMAL)}

_BUILT_IN = frozenset(PRIORS)


def add_prior(prior: Prior) -> None:
    """Register a prior, so that models can choose it by name.

    The NumPy and Numba backends support it (Numba computes its gradient in NumPy, which is slower); the CUDA backend
    supports only those in `prior_fits.CODES`.

    Raises
    ------
    ValueError
        If the name belongs to a built-in prior.
    """
    if prior.name in _BUILT_IN:
        raise SvdValueError(f"prior: the name {prior.name!r} is taken by a built-in prior; choose another")
    PRIORS[prior.name] = prior


def get_prior(name: str) -> Prior:
    """Look up a prior by name.

    Raises
    ------
    ValueError
        If the name is not in `PRIORS`.
    """
    if not isinstance(name, str) or name not in PRIORS:
        raise SvdValueError(f"unknown prior {name!r}: expected one of {', '.join(map(repr, PRIORS))}")
    return PRIORS[name]


def kl_divergence(theta: Array, log_sigma2: Array, prior: str = "log_uniform") -> Array:
    """KL divergence of each weight's posterior from its prior.

    Parameters
    ----------
    theta : ndarray
        Posterior means, float32 or float64, any shape.
    log_sigma2 : ndarray
        Logarithms of the posterior variances, same shape and dtype.
    prior : str
        A name in `PRIORS`.

    Returns
    -------
    ndarray
        The divergence in nats, shape and dtype of `theta`; finite and >= 0.

    Raises
    ------
    TypeError
        If an argument is neither float32 nor float64, or the dtypes differ.
    ValueError
        If the shapes differ, a number is not finite, or the prior is unknown.

    Notes
    -----
    Molchanov et al. 2017, section 4.2 and eq. 14 (``"log_uniform"``). ``log_sigma2`` beyond +-120 in float32
    (+-958 in float64) is treated as that bound.
    """
    get_prior(prior)
    return kl_value(*_checked(theta, log_sigma2), prior)


def kl_gradients(theta: Array, log_sigma2: Array, prior: str = "log_uniform") -> tuple[Array, Array]:
    """Gradients of `kl_divergence`, weight by weight.

    Parameters
    ----------
    theta, log_sigma2, prior
        As in `kl_divergence`.

    Returns
    -------
    d_theta : ndarray
        ``dKL/dtheta``, nats per unit of weight.
    d_log_sigma2 : ndarray
        ``dKL/dlog_sigma2``, nats; about -1/2 for a precise weight.

    Raises
    ------
    TypeError, ValueError
        As in `kl_divergence`.
    """
    get_prior(prior)
    return kl_grad(*_checked(theta, log_sigma2), prior)


def log_alpha(theta: Array, log_sigma2: Array) -> Array:
    """Logarithm of the dropout rate ``alpha = sigma^2 / theta^2``.

    Parameters
    ----------
    theta, log_sigma2 : ndarray
        Posterior means and log variances, same float dtype.

    Returns
    -------
    ndarray
        ``log_sigma2 - 2 log|theta|``, finite: a weight of exactly 0 counts as the smallest subnormal number.

    Notes
    -----
    Molchanov et al. 2017, section 4.3; weights with a large value (above 3 in the paper) are pruned.
    """
    return np.asarray(log_sigma2 - 2.0 * _log_magnitude(theta))


def kl_value(theta: Array, log_sigma2: Array, prior: str = "log_uniform") -> Array:
    """`kl_divergence` without validation, for backends."""
    return PRIORS[prior].kl(theta, log_sigma2)


def kl_grad(theta: Array, log_sigma2: Array, prior: str = "log_uniform") -> tuple[Array, Array]:
    """`kl_gradients` without validation, for backends."""
    return PRIORS[prior].gradients(theta, log_sigma2)


# --- Arithmetic that neither overflows nor loses subnormal weights ---


@dataclass(frozen=True, slots=True)
class _Limits:
    """Bounds of one float dtype, as scalars of that dtype."""

    log_sigma2: np.floating[Any]
    rho: np.floating[Any]
    fit_rho: np.floating[Any]
    lift: np.floating[Any]
    smallest: np.floating[Any]


@cache
def _limits(dtype: np.dtype[Any]) -> _Limits:
    info = np.finfo(dtype)
    bits = int(info.maxexp)  # the largest number is about 2^bits
    two = info.dtype.type(2.0)
    return _Limits(
        log_sigma2=info.dtype.type(1.35 * bits * math.log(2.0)),
        rho=two ** info.dtype.type(0.45 * bits),
        fit_rho=two ** info.dtype.type(0.95 * bits / (2.0 * K3)),
        lift=two ** info.dtype.type(bits // 4),
        smallest=info.smallest_subnormal,
    )


def _clipped(log_sigma2: Array) -> Array:
    bound = _limits(log_sigma2.dtype).log_sigma2
    clipped: Array = np.clip(log_sigma2, -bound, bound)
    return clipped


def _signal_to_noise(theta: Array, log_sigma2: Array) -> tuple[Array, Array]:
    """Return ``rho``, at most the limit of its dtype, and ``1 / sigma``."""
    precision_root = np.exp(-0.5 * _clipped(log_sigma2))
    with np.errstate(over="ignore"):  # the minimum caps an infinite ratio
        rho = np.minimum(np.abs(theta) * precision_root, _limits(log_sigma2.dtype).rho)
    return np.asarray(rho), precision_root


def _times_twice(theta: Array, factor: Array) -> Array:
    """``theta * factor^2`` for ``|theta * factor| < 1``, exact even if ``theta * factor`` is subnormal."""
    lift = np.where(np.abs(theta) < 1.0, _limits(theta.dtype).lift, 1.0).astype(theta.dtype)
    product: Array = theta * lift * factor * factor / lift
    return product


def _log_magnitude(theta: Array) -> Array:
    magnitude: Array = np.log(np.maximum(np.abs(theta), _limits(theta.dtype).smallest))
    return magnitude


def _checked(theta: Array, log_sigma2: Array) -> tuple[Array, Array]:
    theta, log_sigma2 = np.asarray(theta), np.asarray(log_sigma2)
    for name, array in (("theta", theta), ("log_sigma2", log_sigma2)):
        if array.dtype not in (np.float32, np.float64):
            raise SvdTypeError(f"{name} has dtype {array.dtype}, expected float32 or float64: convert with astype")
    if theta.dtype != log_sigma2.dtype:
        raise SvdTypeError(
            f"theta is {theta.dtype} but log_sigma2 is {log_sigma2.dtype}, expected one dtype: convert one of them"
        )
    if theta.shape != log_sigma2.shape:
        raise SvdValueError(
            f"theta has shape {theta.shape} but log_sigma2 has shape {log_sigma2.shape}, expected equal "
            "shapes: broadcast them first"
        )
    for name, array in (("theta", theta), ("log_sigma2", log_sigma2)):
        if not np.isfinite(array).all():
            count = int(np.size(array) - np.isfinite(array).sum())
            raise SvdValueError(f"{name} has {count} non-finite numbers, expected all finite: check the training")
    return theta, log_sigma2
