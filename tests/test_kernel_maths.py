"""What the Numba kernels are made of: exponential, logarithm, KL on all of float32, and the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from svd_numpy.kernels.backend import NoiseKey
from svd_numpy.kernels.philox import philox4x32
from svd_numpy.kernels.prior_fits import CODES
from svd_numpy.kernels.priors import PRIORS, kl_grad, kl_value
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.network.params import Arena, ParamSpec

numba = pytest.importorskip("numba")
from svd_numpy.kernels.cpu import simd, sweep  # noqa: E402  (these need Numba)
from svd_numpy.kernels.cpu.backend import NumbaBackend  # noqa: E402

Array = NDArray[Any]
FAST, PLAIN = NumbaBackend(), ReferenceBackend(np.float64)
PRIOR_NAMES = sorted(PRIORS)

# --- Exponential, logarithm, and the KL on everything that float32 can hold ---


@numba.njit  # type: ignore[untyped-decorator]
def each_exp(x: Array, out: Array) -> None:
    for i in range(len(x)):
        out[i] = simd.exp32(x[i])


@numba.njit  # type: ignore[untyped-decorator]
def each_log(x: Array, out: Array) -> None:
    for i in range(len(x)):
        out[i] = simd.log32(x[i])


def test_exp_and_log() -> None:
    x = np.linspace(-87.2, 87.9, 1_000_003, dtype=np.float32)
    out = np.empty_like(x)
    each_exp(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.float64)), rtol=2e-7)
    far = np.array([-1e30, -200, 200, 1e30], np.float32)
    out = np.empty_like(far)
    each_exp(far, out)
    assert np.isfinite(out).all()
    assert np.all(out >= np.finfo(np.float32).tiny)

    mantissas = np.linspace(1, 2, 4000, endpoint=False)
    x = (mantissas * 2.0 ** np.arange(-126, 128)[:, None]).astype(np.float32).ravel()
    x = np.concatenate([x, np.linspace(0.5, 1.5, 100_000, dtype=np.float32)])
    out = np.empty_like(x)
    each_log(x, out)
    true = np.log(x.astype(np.float64))
    assert np.max(np.abs(out - true) / np.spacing(np.abs(true).astype(np.float32))) < 2


@pytest.mark.parametrize("prior", PRIOR_NAMES)
def test_kl_on_every_float32_exponent(prior: str) -> None:
    exponents = 2.0 ** np.arange(-149, 128)
    magnitudes = np.unique(np.outer(exponents, [1.0, 1.37, 1.99]).astype(np.float32))
    thetas = np.concatenate([[0.0], magnitudes, -magnitudes[::5]]).astype(np.float32)
    theta, log_sigma2 = (a.ravel() for a in np.meshgrid(thetas, np.arange(-104, 88.1, 1.5, dtype=np.float32)))
    true_value = kl_value(theta.astype(np.float64), log_sigma2.astype(np.float64), prior)
    true_gradients = kl_grad(theta.astype(np.float64), log_sigma2.astype(np.float64), prior)

    value = np.full_like(theta, np.nan)
    for lo in range(0, len(theta), sweep.BLOCK):
        part = slice(lo, lo + sweep.BLOCK)
        sweep.kl_values(theta[part], log_sigma2[part], CODES[prior], value[part])
    arena = Arena([ParamSpec("theta", theta.shape, theta, log_sigma2)], np.float32, prior)
    FAST.finish_gradients(arena, 1.0, 0.0)

    for name, got, true in [
        ("value", value, true_value),
        ("d_theta", arena.grad_views["theta"], true_gradients[0]),
        ("d_log_sigma2", arena.grad_views["log_sigma2"], true_gradients[1]),
    ]:
        info = np.finfo(np.float32)
        normal = (np.abs(true) >= info.tiny) & (np.abs(true) <= info.max)
        bad = ~np.isfinite(got)
        worst = int(np.argmax(bad))
        assert not bad.any(), f"{name}: {bad.sum()} not finite, as at {theta[worst]}, {log_sigma2[worst]}"
        error = np.where(normal, np.abs(got - true) / np.where(normal, np.abs(true), 1), 0)
        worst = int(np.argmax(error))
        where = f"theta {theta[worst]}, log_sigma2 {log_sigma2[worst]}: {got[worst]} for {true[worst]}"
        assert error[worst] < 2e-5, f"{name}: {(error >= 2e-5).sum()} wrong, the worst at {where}"
        assert normal.mean() > 0.3


# --- Noise ---

KNOWN_ANSWERS = [  # Random123's own, for ten rounds of Philox4x32: counter, key, output
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@numba.njit  # type: ignore[untyped-decorator]
def compiled_philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    return simd.philox4x32(c0, c1, c2, c3, k0, k1)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: Any, key: Any, words: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in philox4x32(counter, key)) == words
    assert tuple(compiled_philox(*(np.uint32(word) for word in counter + key))) == words


@pytest.mark.parametrize(("rows", "units"), [(1, 1), (3, 16), (5, 65), (7, 300), (2, 1025)])
@pytest.mark.parametrize("key", [NoiseKey(0, 0, 0), NoiseKey(2**63 + 5, 6, 2**32 - 1, 2**20), NoiseKey(2**32, 2, 9, 1)])
def test_both_backends_draw_the_same_noise(key: NoiseKey, rows: int, units: int) -> None:
    np.testing.assert_allclose(FAST.noise(key, rows, units), PLAIN.noise(key, rows, units), rtol=0, atol=1e-5)


def test_noise_depends_on_its_place_alone() -> None:
    block = FAST.noise(NoiseKey(3, 1, 4), 20, 300)
    np.testing.assert_array_equal(FAST.noise(NoiseKey(3, 1, 4, first_sample=11), 9, 65), block[11:, :65])
    for other in (NoiseKey(4, 1, 4), NoiseKey(3 + 2**32, 1, 4), NoiseKey(3, 2, 4), NoiseKey(3, 1, 5)):
        assert abs(np.corrcoef(FAST.noise(other, 20, 300).ravel(), block.ravel())[0, 1]) < 5 / np.sqrt(6000)


def test_a_million_draws_are_standard_normals() -> None:
    from scipy import stats

    n = 1_000_000
    field = FAST.noise(NoiseKey(11, 2, 5), 1000, 1000).astype(np.float64)
    z = field.ravel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - expected) < 4.5 * np.sqrt(variance / n)
    assert stats.kstest(z, "norm").pvalue > 0.001
    assert 4.2 < np.abs(z).max() < 6  # the tails are there
    for lag in (1, 2, 16, 32, 63, 64, 1000):
        for line in (z, field.T.ravel()):  # along the units, along the examples
            assert abs((line[lag:] * line[:-lag]).mean()) < 4.5 / np.sqrt(n)
