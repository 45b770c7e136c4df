"""Gate families: KL and moments against quadrature, gradients against differences, and nothing infinite."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.integrate import quad

import svd_numpy as svd
from svd_numpy.network.gates import FAMILIES, Family, Knob, NormalJeffreys, add_family, make_family

Array = NDArray[Any]
NAMES = sorted(FAMILIES)
# Parameters at which there are independent integrals, by family: five gates each.
POINTS: dict[str, dict[str, list[float]]] = {
    "normal-jeffreys": {"mean": [1, 0.3, -0.7, 0.02, 2], "log_var": [-9, -1, 0.5, 1.5, -3]},
    "ard": {"mean": [1, 0.3, -0.7, 0.02, 2], "log_var": [-9, -1, 0.5, 1.5, -3]},
    "half-cauchy": {
        "mean": [0, -2, 1.5, 0.3, -5],
        "log_var": [-4, -1, 0.758, 1.2, 0],
        "layer_mean": [-3],
        "layer_log_var": [-2],
    },
    "half-cauchy-bound": {
        "mean_a": [0, -4, 2, 0.3, -5],
        "mean_b": [0, 1, 1.5, -2, 8],
        "log_var_a": [-4, -1, 0.7, 1.2, 0],
        "log_var_b": [-4, 0.5, -2, 1, -6],
        "layer_mean_a": [-24],
        "layer_mean_b": [17],
        "layer_log_var_a": [-2],
        "layer_log_var_b": [-0.3],
    },
    "hard-concrete": {"logit": [0, 3, -2, -4, 1]},
    "truncated-log-normal": {"mean": [0, -1, -7, -19, -0.1], "log_std": [-5, 0, 2, 1, -3]},
}


def at(name: str) -> dict[str, Array]:
    return {key: np.array(values, np.float64) for key, values in POINTS[name].items()}


def one(p: dict[str, Array], unit: int) -> dict[str, Array]:
    return {key: array[unit : unit + 1] if len(array) > 1 else array for key, array in p.items()}


def integral(function: Callable[[float], float], low: float, high: float, *cuts: float) -> float:
    ends = [low, *sorted(cut for cut in cuts if low < cut < high), high]
    pieces = pairwise(ends)
    return float(sum(quad(function, *piece, epsabs=1e-12, epsrel=1e-12, limit=400)[0] for piece in pieces))


# --- The KL against the integral of its definition ---


def divergence(q: Any, log_p: Callable[[float], float], low: float, high: float, *cuts: float) -> float:
    return integral(lambda x: float(q.pdf(x) * (q.logpdf(x) - log_p(x))), low, high, *cuts)


def expected_kl(name: str, p: dict[str, Array]) -> float:
    """KL of one gate, and of the layer where it has parameters."""
    if name == "half-cauchy":
        total = 0.0
        for m, v, scale in ((p["mean"], p["log_var"], 1.0), (p["layer_mean"], p["layer_log_var"], 1e-5)):
            mean, std = m.item(), np.exp(v.item() / 2)
            q = stats.norm(mean, std)  # of log z, whose prior density is 2 / (pi k) e^x / (1 + (e^x / k)^2)

            def log_p(x: float, k: float = scale) -> float:
                return float(np.log(2 / (np.pi * k)) + x - np.logaddexp(0, 2 * (x - np.log(k))))

            total += divergence(q, log_p, mean - 12 * std, mean + 12 * std, mean)
        return total
    if name == "half-cauchy-bound":  # log a: its prior, gamma(1/2), has k^2 = 1e-10 for the layer; log b is minus such
        total = 0.0
        for part, scale in (("", 1.0), ("layer_", 1e-10)):
            for factor, sign, k2 in (("a", 1, scale), ("b", -1, 1.0)):
                mean, std = sign * p[f"{part}mean_{factor}"].item(), np.exp(p[f"{part}log_var_{factor}"].item() / 2)
                log_p = stats.loggamma(0.5, np.log(k2)).logpdf
                total += divergence(stats.norm(mean, std), log_p, mean - 12 * std, mean + 12 * std, mean)
        return total
    mean, rest = (p["mean"].item(), p["log_std" if "log_std" in p else "log_var"].item())
    if name == "truncated-log-normal":
        std = np.exp(rest)
        q = stats.truncnorm((-20 - mean) / std, -mean / std, mean, std)
        return divergence(q, lambda _: -np.log(20), max(-20, mean - 12 * std), 0.0, mean - std, mean)
    std = np.exp(rest / 2)
    if name == "ard":
        best = mean**2 + std**2
        p_log = stats.norm(0, np.sqrt(best)).logpdf
        return divergence(stats.norm(mean, std), p_log, mean - 12 * std, mean + 12 * std, mean)
    # normal-Jeffreys: up to a constant, which makes it 0 for an infinite variance
    q = stats.norm(mean, std)
    inside = integral(
        lambda x: float(q.pdf(x) * np.log(np.abs(x))), mean - 12 * std, mean + 12 * std, 0.0, mean, -1e-3, 1e-3
    )
    return inside - np.log(std) + (np.euler_gamma + np.log(2)) / 2


@pytest.mark.parametrize("unit", range(5))
@pytest.mark.parametrize("name", [name for name in NAMES if name != "hard-concrete"])
def test_the_kl_is_the_integral_of_its_definition(name: str, unit: int) -> None:
    p = one(at(name), unit)
    tolerance = 5e-4 if name == "half-cauchy" else 1e-8  # its own quadrature
    assert make_family(name, {}).kl(p) == pytest.approx(expected_kl(name, p), abs=tolerance)


def test_the_penalty_counts_weights_that_are_not_0() -> None:
    family, p = make_family("hard-concrete", {"penalty": 0.5, "size": 30}), at("hard-concrete")
    noise = np.random.default_rng(0).standard_normal((200_000, 5))
    open_ = (family.sample(p, noise)[0] > 0).mean(axis=0)
    assert family.kl(p) == pytest.approx(0.5 * 30 * open_.sum(), rel=5e-3)


# --- Samples and their moments ---


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_of_samples_is_the_test_value(name: str) -> None:
    family, p, rows = make_family(name, {}), at(name), 200_000
    noise = np.random.default_rng(0).standard_normal((rows, 5 + family.shared_noise))
    z = family.sample(p, noise)[0]
    wanted = family.test(p)
    if name == "hard-concrete":  # which tests with another value than E z
        assert np.all((z >= 0) & (z <= 1)) and np.all(wanted[[1, 3]] == [wanted[1], 0])
        return
    assert np.all(np.abs(z.mean(axis=0) - wanted) <= 5 * z.std(axis=0) / np.sqrt(rows))
    if name == "truncated-log-normal":
        for unit in range(5):
            mean, std = p["mean"][unit], np.exp(p["log_std"][unit])
            q = stats.truncnorm((-20 - mean) / std, -mean / std, mean, std)
            assert stats.kstest(np.log(z[:, unit]), q.cdf).pvalue > 1e-4
            moments = [
                integral(lambda x, n=n, q=q: float(q.pdf(x) * np.exp(n * x)), -20, 0, mean, -1.0) for n in (1, 2)
            ]
            assert wanted[unit] == pytest.approx(moments[0], rel=1e-8)
            noise_to_signal = 0.5 * np.log(moments[1] / moments[0] ** 2 - 1)
            assert family.score(p, "snr")[unit] == pytest.approx(noise_to_signal, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_differences(name: str) -> None:
    family, p = make_family(name, {}), at(name)
    rng = np.random.default_rng(1)
    noise, d_z = rng.standard_normal((7, 5 + family.shared_noise)), rng.standard_normal((7, 5))
    pulls, slopes = family.pull(p, family.sample(p, noise)[1], d_z), family.kl_gradients(p)
    assert set(pulls) == set(slopes) == set(family.knobs())
    for key, array in p.items():
        assert pulls[key].shape == slopes[key].shape == array.shape
        for unit in range(len(array)):
            values = []
            for h in (1e-5, -1e-5):
                moved = {**p, key: array + h * (np.arange(len(array)) == unit)}
                values.append(((d_z * family.sample(moved, noise)[0]).sum(), family.kl(moved)))
            by_sample, by_kl = (np.array(values[0]) - np.array(values[1])) / 2e-5
            assert pulls[key][unit] == pytest.approx(by_sample, rel=1e-5, abs=1e-7), (key, unit)
            assert slopes[key][unit] == pytest.approx(by_kl, rel=1e-5, abs=1e-7), (key, unit)


# --- Every float32 within the bounds ---


def everywhere(knob: Knob) -> Array:
    """Numbers of every float32 exponent within the bounds, and the bounds."""
    magnitudes = np.ldexp(np.float32(1.37), np.arange(-149, 128))
    numbers = np.concatenate([magnitudes, -magnitudes, [0, knob.low, knob.high], np.linspace(knob.low, knob.high, 41)])
    numbers = numbers.astype(np.float32)
    return np.unique(numbers[(numbers >= np.float32(knob.low)) & (numbers <= np.float32(knob.high))]).astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_infinite_within_the_bounds(name: str) -> None:
    family = make_family(name, {})
    knobs = family.knobs()
    own = [key for key, knob in knobs.items() if not knob.shared]
    step = 1 if len(own) < 3 else 25  # the bounds are kept
    grid = np.meshgrid(*(np.unique([*everywhere(knobs[key])[::step], *everywhere(knobs[key])[[0, -1]]]) for key in own))
    p = {key: array.ravel() for key, array in zip(own, grid, strict=True)}
    shared = [key for key in knobs if key not in own]
    units = len(p[own[0]])
    rng = np.random.default_rng(0)
    noise = np.concatenate([np.full((1, units), 6.6), np.full((1, units), -6.6), rng.standard_normal((2, units))])
    noise = np.hstack([noise, np.resize([6.6, -6.6, 0, 1], (4, family.shared_noise))])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for corner in range(2 if shared else 1):
            whole = p | {key: np.array([knobs[key].high if corner else knobs[key].low], np.float64) for key in shared}
            for dtype in (np.float32, np.float64):
                z, tape = family.sample(whole, noise.astype(dtype))
                assert np.isfinite(z).all() and np.isfinite(z.astype(np.float32)).all()
                assert all(np.isfinite(pull).all() for pull in family.pull(whole, tape, np.ones_like(z)).values())
            results = [
                family.variance(whole),
                np.array(family.kl(whole)),
                *family.kl_gradients(whole).values(),
                family.test(whole),
            ]
            results += [family.score(whole, score) for score in family.thresholds]
            assert all(np.isfinite(result).all() for result in results)


# --- Known findings ---


def test_a_dead_gate_costs_nothing_and_a_live_one_stays() -> None:
    for name in ("normal-jeffreys", "ard"):
        family = make_family(name, {})
        assert family.kl({"mean": np.zeros(1), "log_var": np.full(1, 9.0)}) == pytest.approx(0, abs=1e-9)
    family = make_family("truncated-log-normal", {})
    dead = {"mean": np.array([-10.0]), "log_std": np.array([5.0])}
    assert family.kl(dead) < 1e-3
    assert np.exp(family.score(dead, "snr")) == pytest.approx(3, abs=0.02)  # E z / std z tends to 1 / 3
    # A confident unit: the authors' float32 form gives E z = 0 here.
    assert family.test({"mean": np.array([-0.1]), "log_std": np.array([-5.0])}) == pytest.approx(0.905, abs=1e-3)
    half_cauchy = make_family("half-cauchy", {"scale": 1.0})
    best = {"mean": np.zeros(1), "log_var": np.full(1, 0.758)}
    least = half_cauchy.kl(best | {f"layer_{key}": value for key, value in best.items()}) / 2
    assert least == pytest.approx(0.0208, abs=2e-4)


@pytest.mark.parametrize("name", ["half-cauchy", "half-cauchy-bound"])
def test_the_factor_of_a_layer_closes_no_unit(name: str) -> None:
    """Over 200 epochs it fell to e^-3.6; with it in the scores, all inputs of a trained network were closed."""
    family = make_family(name, {})
    half = ("_a", "_b") if name.endswith("bound") else ("",)

    def score(mean: float, log_var: float, layer_mean: float) -> float:
        """Of a unit with log z~ ~ N(mean, e^log_var)."""
        # With log z = (log a + log b) / 2, variances are a quarter of the sum.
        shift = np.log(2.0) if len(half) == 2 else 0.0
        numbers = {f"mean{end}": mean for end in half} | {f"log_var{end}": log_var + shift for end in half}
        numbers |= {f"layer_mean{end}": layer_mean for end in half} | {f"layer_log_var{end}": -9.0 for end in half}
        return float(family.score({key: np.array([value]) for key, value in numbers.items()}, "log-mode")[0])

    threshold = family.thresholds["log-mode"]
    for layer_mean in (0.0, -3.6, -12.0):
        dead, live = score(0.0, 0.758, layer_mean), score(0.2, -4.0, layer_mean)  # the first at its least KL
        assert live < threshold < dead
        assert (live, dead) == pytest.approx((-0.18, 2.134), abs=5e-3)


def test_the_bound_of_half_cauchy_gates_lies_above_their_kl() -> None:
    """At best it is 1 - log 2 nats per unit; where log z has a standard deviation of .1, 1.9 nats above the KL."""
    bound, exact = make_family("half-cauchy-bound", {"scale": 1.0}), make_family("half-cauchy", {"scale": 1.0})

    def of_one(family: Family, **p: float) -> float:
        """The KL of one unit; the layer has the same numbers."""
        numbers = {f"{part}{key}": np.array([value], np.float64) for key, value in p.items() for part in ("", "layer_")}
        return family.kl(numbers) / 2

    def both(mean: float, variance: float) -> tuple[float, float]:
        """The bound, with a and b = 1 / a in distribution, and the KL, at the same distribution of z."""
        ls = np.log(2 * variance)
        split = of_one(bound, mean_a=mean, mean_b=-mean, log_var_a=ls, log_var_b=ls)
        return split, of_one(exact, mean=0.0, log_var=np.log(variance))

    assert both(-1 - np.log(2), 1.0)[0] == pytest.approx(1 - np.log(2))
    loose, tight = both(-0.703, 0.01)
    assert loose - tight == pytest.approx(1.889, abs=2e-3)
    for mean in np.linspace(-4, 1, 6):
        for variance in (0.01, 0.1, 0.5, 1.0, 2.0):
            loose, tight = both(mean, variance)
            assert loose > tight + 0.15


def test_evidence_prunes_with_a_tolerance() -> None:
    """A unit that equals its prior has evidence ratio 1: the rule needs a threshold below log 1 = 0."""
    family = make_family("truncated-log-normal", {})
    p = {"mean": np.zeros(3), "log_std": np.array([-5.0, 2.3, 2.7])}
    score = family.score(p, "bmrs")
    assert np.all(score < 0) and list(score > family.thresholds["bmrs"]) == [False, False, True]
    tiny = {"mean": np.array([-9.0, -0.1]), "log_std": np.array([-3.0, -3.0])}
    assert list(family.score(tiny, "bmrs-uniform") > 0) == [True, False]


# --- The table ---


def test_families_of_ones_own() -> None:
    class Twice(NormalJeffreys):
        name = "twice"

        def kl(self, p: Any) -> float:
            return 2 * super().kl(p)

        def kl_gradients(self, p: Any) -> dict[str, Array]:
            return {name: 2 * slope for name, slope in super().kl_gradients(p).items()}

    try:
        add_family(Twice)
        rng = np.random.default_rng(0)
        assert svd.gradcheck(svd.Gate(5, "twice"), rng.standard_normal((7, 5))).ok
    finally:
        FAMILIES.pop("twice", None)

    class Taken(NormalJeffreys):
        pass

    with pytest.raises(svd.SvdValueError, match="'normal-jeffreys' is taken"):
        add_family(Taken)
    assert all(issubclass(family, Family) and family.name == name for name, family in FAMILIES.items())
