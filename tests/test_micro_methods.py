"""The other methods in one file each: gradients, KL terms, samples, golden losses, and that they prune the digits."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, truncnorm

from svd_numpy.micro import Array, Net, ivon, l0, sparse_vd
from svd_numpy.micro import __main__ as command
from svd_numpy.micro import bayesian_compression as bayesian
from svd_numpy.micro import dynamic_surgery as surgery
from svd_numpy.micro import structured_pruning as structured

METHODS: dict[str, ModuleType] = {
    "bayesian_compression": bayesian,
    "structured_pruning": structured,
    "dynamic_surgery": surgery,
    "l0": l0,
    "ivon": ivon,
}
Loss = Callable[[Net, Array, Array, int], tuple[float, Net]]  # net, x, labels, step


def bayesian_loss(net: Net, x: Array, labels: Array, step: int) -> tuple[float, Net]:
    noise = bayesian.draw_noise(net, len(x), np.random.default_rng(step))
    return bayesian.loss_and_gradients(net, x, labels, 100, 0.7, noise)


def structured_loss(net: Net, x: Array, labels: Array, step: int) -> tuple[float, Net]:
    uniforms = [np.random.default_rng([step, i]).random(len(layer["mu"])) for i, layer in enumerate(net)]
    return structured.loss_and_gradients(net, x, labels, 100, 0.7, uniforms)


def surgery_loss(net: Net, x: Array, labels: Array, step: int) -> tuple[float, Net]:
    return surgery.loss_and_gradients(net, [np.ones(layer["theta"].shape, bool) for layer in net], x, labels)


def l0_loss(net: Net, x: Array, labels: Array, step: int) -> tuple[float, Net]:
    uniforms = l0.draw_uniforms(net, len(x), np.random.default_rng(step))
    return l0.loss_and_gradients(net, x, labels, 100, 0.7, uniforms)


LOSSES: dict[str, Loss] = {
    "bayesian_compression": bayesian_loss,
    "structured_pruning": structured_loss,
    "dynamic_surgery": surgery_loss,
    "l0": l0_loss,
    "ivon": lambda net, x, labels, step: ivon.loss_and_gradients(net, x, labels),
}
GOLDEN = {  # the losses of the first four steps
    "bayesian_compression": [2.516729841183913, 2.3802999426940965, 2.3295007617428096, 2.299077047821045],
    "structured_pruning": [1.71376929915, 1.60504187664, 1.56244142247, 1.53259919152],
    "dynamic_surgery": [1.25982671488, 1.23412701618, 1.21076565813, 1.18955569946],
    "l0": [1.25751117273, 1.2971582782, 1.29044349832, 1.42263711167],
}


def problem(rows: int = 12) -> tuple[Array, Array]:
    """Inputs (rows, 5), of which the first row is all 0, and labels of 3 classes."""
    x = np.sin(np.arange(5.0 * rows)).reshape(rows, 5)
    x[0] = 0
    return x, np.arange(rows) % 3


def numeric_slope(value: Callable[[], float], array: Array, at: Any, width: float = 1e-6) -> float:
    old = array[at]
    found = []
    for moved in (old + width, old - width):
        array[at] = moved
        found.append(value())
    array[at] = old
    return (found[0] - found[1]) / (2 * width)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    net, (x, labels) = METHODS[name].make_net(5, 4, 3), problem()
    rng = np.random.default_rng(1)
    for layer in net:  # noise that matters, gates that differ, and no input of a ReLU at its kink
        layer["bias"][...] = rng.uniform(0.1, 0.5, layer["bias"].shape)
        for parameter, (low, high) in {"v": (-3, 1), "log_sigma2": (-4, 0), "mu": (-6, 0), "log_sd": (-3, 3)}.items():
            if parameter in layer:
                layer[parameter][...] = rng.uniform(low, high, layer[parameter].shape)
    gradients = LOSSES[name](net, x, labels, 0)[1]
    for layer, gradient in zip(net, gradients, strict=True):
        assert layer.keys() == gradient.keys()
        for parameter, array in layer.items():
            expected = [
                numeric_slope(lambda: LOSSES[name](net, x, labels, 0)[0], array, at) for at in np.ndindex(array.shape)
            ]
            np.testing.assert_allclose(gradient[parameter].ravel(), expected, rtol=1e-5, atol=1e-8, err_msg=parameter)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_first_steps_are_always_the_same(name: str) -> None:
    net, (x, labels) = METHODS[name].make_net(5, 4, 3), problem()
    moments, losses = (sparse_vd.zeros_like(net), sparse_vd.zeros_like(net)), []
    for step in range(4):
        loss, gradients = LOSSES[name](net, x, labels, step)
        METHODS[name].adam_step(net, gradients, moments, 0.01, step)
        losses.append(loss)
    np.testing.assert_allclose(losses, GOLDEN[name], rtol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_it_prunes_the_digits_at_little_loss(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    command.main([name])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8x8 digits")
    error = float(re.findall(r"([\d.]+)%", lines[-1])[0])
    left, total = (int(number) for number in re.findall(r"(\d+) of (\d+)", lines[-1])[0])
    assert total == 7400
    assert error < 3.5  # a dense network: about 2
    assert left < (0.2 if name == "dynamic_surgery" else 0.4) * total


@pytest.mark.parametrize("name", METHODS)
def test_each_is_one_short_file(name: str) -> None:
    text = Path(METHODS[name].__file__ or "").read_text()
    assert len(text.splitlines()) <= 200
    nodes = list(ast.walk(ast.parse(text)))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "itertools", "svd_numpy.micro.sparse_vd", "scipy.special"}


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="'l1', expected one of sparse_vd, bayesian_compression"):
        command.main(["l1"])
    assert set(command.METHODS) == {"sparse_vd", "lstm", *METHODS}


# ------------------------------------------------------------ IVON


def test_the_curvature_stays_positive_and_finds_its_mean() -> None:
    rng, h = np.random.default_rng(0), np.array([0.1, 3.0, 1e-3])
    history = []
    for _ in range(20_000):
        h = ivon.new_curvature(h, rng.normal([0.5, 0.0, -1.0], [3.0, 0.0, 3.0]), beta2=0.99)
        assert (h + ivon.DELTA > 0).all()
        history.append(h)
    # The noise has a variance of (1 - beta2) / 2 times that of an estimate, and the square lifts the mean a little.
    assert np.mean(history, axis=0)[0] == pytest.approx(0.5, abs=0.1)
    assert 0 < h[1] < 0.01


def test_ivon_finds_the_posterior_of_a_quadratic() -> None:
    """One unit, labels that say nothing: the curvature is known, and so are mean and sigma of the posterior."""
    rng = np.random.default_rng(0)
    h, mean, g = np.full(4, 0.1), np.zeros(4), np.zeros(4)
    curvature, slope, n = np.array([0.2, 0.5, 1.0, 2.0]), np.array([1.0, -1.0, 0.5, 0.0]), 200
    for t in range(20_000):
        std, noise = ivon.sigma(h, n), rng.standard_normal(4)
        gradient = curvature * (mean + std * noise) - slope
        g += 0.1 * (gradient - g)
        h = ivon.new_curvature(h, gradient * noise / std)
        mean -= 0.01 * (g / (1 - 0.9 ** (t + 1)) + ivon.DELTA * mean) / (h + ivon.DELTA)
    np.testing.assert_allclose(h, curvature, rtol=0.25)
    np.testing.assert_allclose(mean, slope / (curvature + ivon.DELTA), atol=0.1)


def test_ivon_prunes_what_is_least_known() -> None:
    net = [{"theta": np.array([[3.0, -0.1], [0.2, -4.0]]), "bias": np.ones(2)}]
    scores = [np.array([[0.1, 5.0], [4.0, 2.0]])]
    np.testing.assert_array_equal(ivon.pruned(net, scores, 0.5)[0]["theta"], [[0.0, -0.1], [0.2, 0.0]])
    np.testing.assert_array_equal(ivon.pruned(net, scores, 0.5)[0]["bias"], [1, 1])


# ------------------------------------------------------------ Bayesian compression


def test_the_kl_of_the_weights_is_that_of_two_gaussians() -> None:
    theta, log_sigma2 = np.array([[0.3, -1.2]]), np.array([[-1.0, 0.5]])
    layer = {"theta": theta, "log_sigma2": log_sigma2, "m": np.array([1e-9]), "v": np.array([4.0])}
    found = bayesian.kl_and_gradients(layer)[0]  # a gate that is all noise costs nothing

    def expected(mean: float, sd: float) -> float:
        own = norm(mean, sd)
        return quad(lambda w: own.pdf(w) * (own.logpdf(w) - norm.logpdf(w)), mean - 12 * sd, mean + 12 * sd)[0]

    sds = np.exp(log_sigma2 / 2)
    total = sum(expected(mean, sd) for mean, sd in zip(theta.ravel(), sds.ravel(), strict=True))
    assert found == pytest.approx(total, rel=1e-9)


def test_a_live_network_is_the_same_after_folding() -> None:
    net, (x, _) = bayesian.make_net(5, 4, 3), problem()
    net[0]["v"][[1, 3]] = net[1]["v"][2] = 5  # dead gates
    outputs, silent = x, [bayesian.live_gates(layer) * layer["m"] for layer in net]
    for number, (layer, z) in enumerate(zip(net, silent, strict=True)):
        outputs = ((outputs if number == 0 else np.maximum(outputs, 0)) * z) @ layer["theta"] + layer["bias"]
    np.testing.assert_allclose(bayesian.predict(net, x), outputs, rtol=1e-12)
    assert [theta.shape for theta, _ in bayesian.folded(net)] == [(3, 3), (3, 3)]


# ------------------------------------------------------------ structured pruning

GATES = [(-0.5, -2.0), (-3.0, 0.0), (0.0, -5.0), (-12.0, 1.5), (-20.0, -1.0), (-7.0, 4.0)]


@pytest.mark.parametrize(("mu", "log_sd"), GATES)
def test_kl_and_moments_of_truncated_gates_against_quadrature(mu: float, log_sd: float) -> None:
    sd = np.exp(log_sd)
    own = truncnorm((-20 - mu) / sd, -mu / sd, mu, sd)
    low, high = max(-20, mu - 12 * sd), min(0, mu + 12 * sd)

    def mean(f: Callable[[float], float]) -> float:
        return quad(lambda t: own.pdf(t) * f(t), low, high, epsabs=0, epsrel=1e-11, limit=500)[0]

    kl = structured.kl_divergence(np.array([mu]), np.array([log_sd]))[0]
    assert kl == pytest.approx(mean(own.logpdf) + np.log(20), abs=1e-8)
    first, second = mean(np.exp), mean(lambda t: np.exp(2 * t))
    found, snr = structured.mean_and_snr(np.array([mu]), np.array([log_sd]))
    assert found[0] == pytest.approx(first, rel=1e-8)
    assert snr[0] == pytest.approx(first / np.sqrt(second - first**2), rel=1e-4)


def test_samples_of_truncated_gates_have_the_right_quantiles() -> None:
    u = np.linspace(0.01, 0.99, 50)
    for mu, log_sd in GATES:
        sd = np.exp(log_sd)
        z = structured.sample(np.full(50, mu), np.full(50, log_sd), u)[0]
        np.testing.assert_allclose(np.log(z), truncnorm((-20 - mu) / sd, -mu / sd, mu, sd).ppf(u), atol=1e-6 * sd)


def test_everything_is_finite_at_the_bounds_of_a_truncated_gate() -> None:
    mu, log_sd = (grid.ravel() for grid in np.meshgrid([-20.0, -10.0, -1e-12, 0.0], [-10.0, 0.0, 5.0]))
    for u in (0.0, 1e-12, 0.5, 1.0):
        assert all(np.isfinite(a).all() for a in structured.sample(mu, log_sd, np.full(len(mu), u)))
    assert all(np.isfinite(a).all() for a in structured.kl_divergence(mu, log_sd))
    assert all(np.isfinite(a).all() for a in structured.mean_and_snr(mu, log_sd))


def test_a_gate_at_its_prior_is_dead() -> None:
    found, snr = structured.mean_and_snr(np.array([-10.0]), np.array([5.0]))
    assert found[0] == pytest.approx(0.05, abs=1e-3)
    assert snr[0] == pytest.approx(1 / 3, abs=0.01)


# ------------------------------------------------------------ hard concrete gates


@pytest.mark.parametrize("a", [-4.0, -1.0, 0.0, 2.5])
def test_the_share_of_open_gates_is_that_of_the_samples(a: float) -> None:
    z = l0.sample(np.full(200_000, a), (np.arange(200_000) + 0.5) / 200_000)[0]
    assert (z > 0).mean() == pytest.approx(float(l0.share_on(np.array([a]))[0][0]), abs=1e-5)


def test_a_gate_dies_at_the_published_place() -> None:
    assert list(l0.final_gate(np.array([-2.399, -2.397])) > 0) == [False, True]
    assert float(l0.share_on(np.array([-2.398]))[0][0]) == pytest.approx(0.31, abs=0.005)


# ------------------------------------------------------------ surgery


def test_weights_between_the_two_thresholds_stay_as_they_are() -> None:
    theta = np.array([0.5, -0.89, 0.95, -1.05, 1.2, -1.11])
    stay = surgery.surgery(theta, np.ones(6, bool), 1.0)
    come_back = surgery.surgery(theta, np.zeros(6, bool), 1.0)
    assert list(stay) == [False, False, True, True, True, True]
    assert list(come_back) == [False, False, False, False, True, True]


def test_pruned_weights_go_on_learning() -> None:
    net, (x, labels) = surgery.make_net(5, 4, 3), problem()
    masks = [np.zeros(layer["theta"].shape, bool) for layer in net]
    masks[1][...] = True
    net[0]["bias"][...] = 1  # units that are on without any input
    gradients = surgery.loss_and_gradients(net, masks, x + 1, labels)[1]
    assert (gradients[0]["theta"] != 0).all()
    assert list(surgery.thresholds([{"theta": np.array([[1.0, -3.0]])}], c=2)) == [4.0]


def test_surgeries_become_rare_and_end() -> None:
    at = [step for step in range(20_000) if surgery.operates(step, 10_000, seed=0)]
    assert at[-1] < 10_000
    assert sum(step < 100 for step in at) > 85
    assert sum(step >= 9000 for step in at) == pytest.approx(1000 / 10.5, abs=35)
