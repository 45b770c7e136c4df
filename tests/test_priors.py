"""The KL terms: known values, independent integrals, and finiteness on every float32 and float64 exponent."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from svd_numpy.kernels.prior_fits import CODES
from svd_numpy.kernels.priors import (
    PRIORS,
    RatioPrior,
    get_prior,
    kl_divergence,
    kl_gradients,
    largest_rho,
    log_alpha,
)

Array = NDArray[Any]
NAMES = sorted(PRIORS)
RATIOS = sorted(name for name, prior in PRIORS.items() if isinstance(prior, RatioPrior))
LONG = np.longdouble

EXACT_TABLE = {
    -8.0: 4.635014,
    -4.0: 2.625755,
    -2.0: 1.544155,
    -1.0: 0.914531,
    0.0: 0.426686,
    1.0: 0.173194,
    2.0: 0.066168,
    3.0: 0.024688,
    4.0: 0.009130,
    8.0: 0.000168,
}


def kl_at(la: Array | float, prior: str) -> Array:
    la = np.asarray(la, dtype=np.float64)
    return kl_divergence(np.ones_like(la), la, prior)


def slope_at(la: Array | float, prior: str) -> Array:
    """dKL/dlog_alpha, which is dKL/dlog_sigma2 at fixed theta."""
    la = np.asarray(la, dtype=np.float64)
    return kl_gradients(np.ones_like(la), la, prior)[1]


# --- Known values and independent integrals ---


def test_exact_kl_matches_the_table() -> None:
    la = np.array(list(EXACT_TABLE))
    np.testing.assert_allclose(kl_at(la, "log_uniform_exact"), list(EXACT_TABLE.values()), rtol=0, atol=1e-6)


def test_the_papers_fit_is_within_its_known_error() -> None:
    la = np.linspace(-20, 20, 4001)
    error = np.abs(kl_at(la, "log_uniform") - kl_at(la, "log_uniform_exact"))
    assert 0.009 < error.max() < 0.0095
    slope_error = np.abs(slope_at(la, "log_uniform") - slope_at(la, "log_uniform_exact"))
    assert 0.013 < slope_error.max() < 0.0139


def test_the_fit_equals_the_formula_as_printed() -> None:
    la = np.linspace(-15, 15, 301)
    sigmoid = 1 / (1 + np.exp(-(1.87320 + 1.48695 * la)))
    minus_kl = 0.63576 * sigmoid - 0.5 * np.log1p(np.exp(-la)) - 0.63576
    np.testing.assert_allclose(kl_at(la, "log_uniform"), -minus_kl, rtol=0, atol=1e-14)


@pytest.mark.parametrize("la", [-9.0, -4.0, -1.0, 0.0, 1.0, 3.0, 6.0])
def test_exact_kl_matches_quadrature_of_its_definition(la: float) -> None:
    """KL = E log|1 + sqrt(alpha) eps| - 1/2 log alpha + constant, split where the logarithm is singular."""
    from scipy.integrate import quad

    root_alpha = np.exp(la / 2)

    def integrand(eps: float) -> float:
        density = np.exp(-eps * eps / 2) / np.sqrt(2 * np.pi)
        return float(density * np.log(np.abs(1 + root_alpha * eps)))

    singular = -1 / root_alpha
    cuts = sorted({-40.0, -10.0, 0.0, 10.0, 40.0, *(singular + np.array([-1e-2, 0.0, 1e-2]))})
    cuts = [cut for cut in cuts if -40 <= cut <= 40]
    expectation = sum(
        quad(integrand, low, high, epsabs=1e-12, epsrel=1e-12, limit=200)[0] for low, high in pairwise(cuts)
    )
    expected = expectation - la / 2 + (np.euler_gamma + np.log(2)) / 2
    assert kl_at(la, "log_uniform_exact") == pytest.approx(expected, abs=1e-9)


# --- Gradients ---


@pytest.mark.parametrize("prior", NAMES)
def test_gradients_match_central_differences(prior: str) -> None:
    generator = np.random.default_rng(0)
    theta = generator.normal(size=400) * np.exp(generator.uniform(-3, 3, size=400))
    log_sigma2 = generator.uniform(-10, 4, size=400)
    d_theta, d_log_sigma2 = kl_gradients(theta, log_sigma2, prior)

    def difference(d_t: Array | float, d_l: float) -> Array:
        # Four-point formula: its truncation error is below the rounding error at this step.
        f = [kl_divergence(theta + k * d_t, log_sigma2 + k * d_l, prior) for k in (-2, -1, 1, 2)]
        return np.asarray((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12)

    # Steps in proportion to theta: the fit, |theta|^2.97 near 0, is not smooth across 0.
    step = 1e-3 * theta
    np.testing.assert_allclose(d_theta, difference(step, 0.0) / step, rtol=1e-6)
    np.testing.assert_allclose(d_log_sigma2, difference(0.0, 1e-2) / 1e-2, rtol=1e-6)


@pytest.mark.parametrize("prior", RATIOS)
def test_limits_and_monotonicity(prior: str) -> None:
    assert 0 < kl_at(20.0, prior) < 1e-8
    assert slope_at(-20.0, prior) == pytest.approx(-0.5, abs=1e-8)
    assert np.all(np.diff(kl_at(np.linspace(-40, 40, 2001), prior)) < 0)


@pytest.mark.parametrize("prior", RATIOS)
def test_symmetry_and_scale_invariance(prior: str) -> None:
    generator = np.random.default_rng(1)
    theta, log_sigma2 = generator.normal(size=50), generator.uniform(-8, 4, size=50)
    kl = kl_divergence(theta, log_sigma2, prior)
    np.testing.assert_array_equal(kl_divergence(-theta, log_sigma2, prior), kl)
    np.testing.assert_array_equal(
        kl_gradients(-theta, log_sigma2, prior)[0], -kl_gradients(theta, log_sigma2, prior)[0]
    )
    np.testing.assert_allclose(kl_divergence(8 * theta, log_sigma2 + 2 * np.log(8), prior), kl, rtol=1e-13)


@pytest.mark.parametrize("prior", RATIOS)
def test_weight_of_exactly_zero(prior: str) -> None:
    theta, log_sigma2 = np.zeros(3, np.float32), np.array([-20, 0, 20], np.float32)
    assert np.all(kl_divergence(theta, log_sigma2, prior) == 0)
    assert all(np.all(gradient == 0) for gradient in kl_gradients(theta, log_sigma2, prior))


@pytest.mark.parametrize(("theta", "log_sigma2"), [(0.0, 0.0), (0.7, -3.0), (-1.2, 0.5), (2.0, -8.0), (0.1, 1.5)])
def test_kl_from_the_normal_distribution_matches_quadrature(theta: float, log_sigma2: float) -> None:
    from scipy.integrate import quad
    from scipy.stats import norm

    q, p = norm(theta, np.exp(log_sigma2 / 2)), norm()

    def integrand(w: float) -> float:
        return float(q.pdf(w) * (q.logpdf(w) - p.logpdf(w)))

    reach = 12 * np.exp(log_sigma2 / 2)
    expected = quad(integrand, theta - reach, theta + reach, epsabs=1e-12, limit=200)[0]
    assert kl_divergence(np.array(theta), np.array(log_sigma2), "normal") == pytest.approx(expected, abs=1e-9)


# --- Every exponent, against log-space formulas in extended precision ---


def poisson_mixture(s: Array) -> tuple[Array, Array]:
    """Exact log-uniform value and slope as sums of positive terms.

    ``(theta + sigma eps)^2 / sigma^2`` is a non-central chi-square, a Poisson(s/2) mixture of central ones:
    ``K = 1/2 E[psi(J + 1/2) - psi(1/2)]`` and ``v = E[1 / (2J + 1)]``.
    """
    rate, psi_difference = s / 2, LONG(0)
    weight = np.exp(-rate)
    value, slope = np.zeros_like(s), weight.copy()
    for j in range(1, 460):
        weight = weight * rate / j
        psi_difference += LONG(2) / (2 * j - 1)
        value += weight * psi_difference / 2
        slope += weight / (2 * j + 1)
    return value, slope


def exact_oracle(log_rho: Array) -> tuple[Array, Array]:
    s = np.exp(2 * log_rho)
    inverse_s = np.exp(-2 * np.maximum(log_rho, LONG(2)))
    value = log_rho + (LONG("0.577215664901532860606512") + np.log(LONG(2))) / 2
    slope, term = inverse_s.copy(), np.ones_like(s)
    for k in range(1, 13):  # term = (2k - 1)!! s^-k
        term = term * (2 * k - 1) * inverse_s
        value, slope = value - term / (2 * k), slope + term * inverse_s
    middle = s < 400
    value[middle], slope[middle] = poisson_mixture(s[middle])
    tiny = s < LONG(1e-20)
    value[tiny], slope[tiny] = s[tiny] / 2, 1
    return value, slope


def oracle(log_rho: Array, prior: str) -> tuple[Array, Array]:
    """``K`` and ``v`` from ``log rho``; the log-uniform fit in terms of log alpha, as the paper prints it."""
    if prior == "log_uniform_exact":
        return exact_oracle(log_rho)
    s = np.exp(2 * log_rho)
    value, slope = np.log1p(s) / 2, 1 / (1 + s)
    if prior == "log_uniform":
        k1, k2, k3 = LONG("0.63576"), LONG("1.87320"), LONG("1.48695")
        z = k2 - 2 * k3 * log_rho
        tail = np.exp(-np.abs(z))
        value = value + k1 * np.where(z > 0, tail, 1) / (1 + tail)
        slope = slope + 2 * k1 * k3 * (tail / (1 + tail) ** 2) / s
    return value, slope


def campaign(dtype: type) -> tuple[Array, Array]:
    """Every exponent of theta, subnormal ones too, both signs and zero, times log_sigma2 in [-104, 88]."""
    info = np.finfo(dtype)
    stride = 1 if dtype is np.float32 else 7
    exponents = np.arange(info.minexp - info.nmant, info.maxexp, stride)
    generator = np.random.default_rng(2)
    mantissas = np.stack([np.ones(exponents.size), generator.uniform(1, 1.999, exponents.size)])
    magnitudes = np.ldexp(mantissas.astype(dtype), exponents).ravel()
    magnitudes = np.concatenate([magnitudes, [info.max, info.tiny, info.smallest_subnormal, 0]]).astype(dtype)
    theta = np.concatenate([magnitudes, -magnitudes])
    log_sigma2: Array = np.concatenate([np.linspace(-104, 88, 33), generator.uniform(-104, 88, 16)]).astype(dtype)
    grid = np.broadcast_arrays(theta[:, None], log_sigma2[None, :])
    return grid[0].copy(), grid[1].copy()


def worst_error(got: Array, true: Array) -> float:
    """Largest relative error where the true number is normal; elsewhere the result must be as small."""
    tiny, largest = np.finfo(got.dtype).tiny, np.finfo(got.dtype).max
    normal = (np.abs(true) >= tiny) & (np.abs(true) <= largest)
    assert np.all(np.abs(got[np.abs(true) < tiny]) <= 1.0001 * tiny)
    return float(np.max(np.abs(got[normal].astype(LONG) / true[normal] - 1)))


@pytest.mark.parametrize("prior", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-12)])
def test_every_exponent(prior: str, dtype: type, tolerance: float) -> None:
    theta, log_sigma2 = campaign(dtype)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        kl = kl_divergence(theta, log_sigma2, prior)
        d_theta, d_log_sigma2 = kl_gradients(theta, log_sigma2, prior)
        la = log_alpha(theta, log_sigma2)
    for result in (kl, d_theta, d_log_sigma2, la):
        assert result.dtype == dtype and result.shape == theta.shape
        assert np.all(np.isfinite(result))

    if np.finfo(LONG).maxexp <= 1024:
        pytest.skip("the accuracy oracle needs a long double wider than float64")
    nonzero = theta != 0
    log_theta, ls = np.log(np.abs(theta[nonzero]).astype(LONG)), log_sigma2[nonzero].astype(LONG)
    log_rho = log_theta - ls / 2
    if prior == "normal":
        value = (np.exp(2 * log_theta) + np.expm1(ls) - ls) / 2
        true_d_log_sigma2, true_d_theta = np.expm1(ls) / 2, theta[nonzero].astype(LONG)
    else:
        value, slope = oracle(log_rho, prior)
        true_d_log_sigma2 = -slope * np.exp(2 * log_rho) / 2
        true_d_theta = np.sign(theta[nonzero]) * slope * np.exp(log_theta - ls)
    assert worst_error(kl[nonzero], value) <= tolerance
    assert worst_error(d_log_sigma2[nonzero], true_d_log_sigma2) <= tolerance
    assert worst_error(d_theta[nonzero], true_d_theta) <= tolerance
    true_la = -2 * log_rho
    assert np.max(np.abs(la[nonzero] - true_la) / (1 + np.abs(true_la) + np.abs(ls))) <= tolerance


@pytest.mark.parametrize("prior", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_at_the_ends_of_the_number_line(prior: str, dtype: type) -> None:
    info = np.finfo(dtype)
    ends: Array = np.array([0, info.smallest_subnormal, info.tiny, 1, info.max], dtype)
    ends = np.concatenate([ends, -ends])
    theta, log_sigma2 = (a.copy() for a in np.broadcast_arrays(ends[:, None], ends[None, :]))
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        results = [kl_divergence(theta, log_sigma2, prior), *kl_gradients(theta, log_sigma2, prior)]
    assert all(np.all(np.isfinite(result)) for result in results)


def test_log_alpha_of_a_zero_weight_is_finite_and_large() -> None:
    la = log_alpha(np.array([0.0, -0.0, 0.5], np.float32), np.array([-8.0, -8.0, -8.0], np.float32))
    np.testing.assert_allclose(la, [198.5579, 198.5579, -8 + 2 * np.log(2)], rtol=1e-6)


# --- The public edge ---


def test_table_of_priors() -> None:
    assert set(PRIORS) == set(CODES)  # every built-in prior has its branch in the compiled passes
    for name, prior in PRIORS.items():
        assert get_prior(name) is prior and prior.name == name
        if not isinstance(prior, RatioPrior):
            continue
        rho = np.array([0, 1, largest_rho(np.dtype(np.float32))], np.float32)
        assert prior.value(rho).dtype == prior.slope(rho).dtype == np.float32
        # slope = K'(rho) / rho
        r, h = np.array([0.3, 1.0, 4.0, 20.0]), 1e-5
        numerical = (prior.value(r + h) - prior.value(r - h)) / (2 * h * r)
        np.testing.assert_allclose(prior.slope(r), numerical, rtol=1e-6)


def test_scalars_and_empty_arrays_keep_their_shape() -> None:
    for shape in [(), (0,), (2, 0), (2, 3, 4)]:
        theta = np.ones(shape, np.float32)
        results = [kl_divergence(theta, theta), *kl_gradients(theta, theta), log_alpha(theta, theta)]
        assert all(r.shape == shape and r.dtype == np.float32 and isinstance(r, np.ndarray) for r in results)


@pytest.mark.parametrize("function", [kl_divergence, kl_gradients])
def test_bad_calls_say_what_is_wrong(function: Any) -> None:
    good = np.zeros(3)
    with pytest.raises(ValueError, match=r"'nope'.*'log_uniform', 'log_uniform_exact', 'ard'"):
        function(good, good, "nope")
    with pytest.raises(ValueError, match="unknown prior None"):
        function(good, good, None)
    with pytest.raises(ValueError, match=r"\(3,\).*\(1, 3\)"):
        function(good, good[None])
    with pytest.raises(TypeError, match="theta has dtype int64"):
        function(np.zeros(3, np.int64), good)
    with pytest.raises(TypeError, match="log_sigma2 has dtype float16"):
        function(good, good.astype(np.float16))
    with pytest.raises(TypeError, match="theta is float64 but log_sigma2 is float32"):
        function(good, good.astype(np.float32))
    with pytest.raises(ValueError, match="theta has 1 non-finite"):
        function(np.array([0.0, np.nan, 1.0]), good)
    with pytest.raises(ValueError, match="log_sigma2 has 2 non-finite"):
        function(good, np.array([np.inf, -np.inf, 1.0]))
