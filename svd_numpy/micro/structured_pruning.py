"""Structured Bayesian Pruning in one file of plain NumPy (Neklyudov et al. 2017): units die, from a trained network.

Run it: `python -m svd_numpy.micro structured_pruning`. Read `sparse_vd.py` first; its softmax and its digits are
used here, and functions of the normal distribution from SciPy.

Weights are ordinary numbers. Each input of a layer, be it a pixel or a hidden unit, has a random factor z between
e^-20 and 1, its gate. log z is normal with mean mu and standard deviation sigma = e^l, truncated to [a, b] =
[-20, 0]; the prior is uniform there, so it is proper. (In the code, l is log_sd.) A gate is dead if its
signal-to-noise ratio E z / sd z is below 1. Let

    alpha = (a - mu) / sigma, beta = (b - mu) / sigma     the bounds, in standard deviations
    L = log(Phi(beta) - Phi(alpha))                       log of the mass between them
    A = phi(alpha) e^-L, Q = phi(beta) e^-L               the densities at the bounds
    T = alpha A - beta Q

mu is kept in [a, b], so alpha <= 0 <= beta, where all of this is accurate. Below, in this order:

    (1) sample    log z = mu + sigma xi, with xi at the quantile u of the truncated standard normal. Gradients are
                  those of the quantile at fixed u; no quantile function need be differentiated:
                  w_a = (1 - u) e^((xi^2 - alpha^2) / 2),  w_b = u e^((xi^2 - beta^2) / 2)
                  dlog z/dmu = 1 - w_a - w_b,  dlog z/dl = sigma (xi - alpha w_a - beta w_b)
    (2) KL        log(b - a) - l - L - log(2 pi e) / 2 - T / 2, with
                  g_a = A (1 + alpha^2 - T),  g_b = Q (1 + beta^2 - T)
                  dKL/dmu = (g_b - g_a) / (2 sigma),  dKL/dl = -1 + (beta g_b - alpha g_a) / 2
    (3) moments   log E z^n = n mu + n^2 sigma^2 / 2 + L(alpha - n sigma, beta - n sigma) - L
    (4) network   y = (x z) theta + bias, one z for a whole batch, and the chain rule through it
    (5) Adam      ten times faster for the gates; then mu and l are clipped
    (6) pruning   a gate is dead where E z / sd z < 1; live ones, at E z, are folded into the weights

Shapes: B examples in a batch, N in the training set, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.special import erfc, log_ndtr, ndtri_exp

from svd_numpy.micro.sparse_vd import Array, Net, cross_entropy, load_problem, zeros_like

# A layer is {"theta": (I, O), "bias": (O,), "mu": (I,), "log_sd": (I,)}.
LOW, HIGH = -20.0, 0.0  # a and b
THRESHOLD = 1.0  # on E z / sd z; that of a gate at its prior is 1/3
GATE_SPEED = 10.0  # factor on the learning rate of mu and log_sd


def log_mass(low: Array, high: Array) -> Array:
    """log(Phi(high) - Phi(low)) for low <= 0: without cancellation in the left tail, and around 0."""
    above, below = log_ndtr(high), log_ndtr(low)
    left = above + np.log1p(-np.exp(np.minimum(below - above, -1e-300)))
    middle = np.log1p(-0.5 * erfc(np.maximum(high, 0) / np.sqrt(2)) - 0.5 * erfc(-low / np.sqrt(2)))
    return np.asarray(np.where(high < 0, left, middle))


def bounds(mu: Array, log_sd: Array) -> tuple[Array, Array, Array]:
    """sigma, alpha, beta."""
    sigma = np.exp(log_sd)
    return sigma, (LOW - mu) / sigma, (HIGH - mu) / sigma


def sample(mu: Array, log_sd: Array, u: Array) -> tuple[Array, Array, Array]:
    """(1) The gates at quantiles u, 0 < u < 1, and the derivatives of log z for mu and log_sd."""
    sigma, alpha, beta = bounds(mu, log_sd)
    u = np.clip(u, 1e-9, 1 - 1e-9)
    xi = ndtri_exp(np.logaddexp(np.log1p(-u) + log_ndtr(alpha), np.log(u) + log_ndtr(beta)))
    xi = np.clip(xi, alpha, beta)
    w_a, w_b = (1 - u) * np.exp((xi**2 - alpha**2) / 2), u * np.exp((xi**2 - beta**2) / 2)
    return np.exp(mu + sigma * xi), 1 - w_a - w_b, sigma * (xi - alpha * w_a - beta * w_b)


def kl_divergence(mu: Array, log_sd: Array) -> tuple[float, Array, Array]:
    """(2) KL of gates from the uniform prior of log z, in nats, and its gradients for mu and log_sd."""
    sigma, alpha, beta = bounds(mu, log_sd)
    mass = log_mass(alpha, beta)
    a, q = (np.exp(-0.5 * end**2 - 0.5 * np.log(2 * np.pi) - mass) for end in (alpha, beta))
    t = alpha * a - beta * q
    value = np.log(HIGH - LOW) - log_sd - mass - 0.5 * np.log(2 * np.pi * np.e) - 0.5 * t
    g_a, g_b = a * (1 + alpha**2 - t), q * (1 + beta**2 - t)
    return float(value.sum()), 0.5 * (g_b - g_a) / sigma, -1 + 0.5 * (beta * g_b - alpha * g_a)


def mean_and_snr(mu: Array, log_sd: Array) -> tuple[Array, Array]:
    """(3) E z and E z / sd z."""
    sigma, alpha, beta = bounds(mu, log_sd)
    first, second = (
        n * mu + 0.5 * (n * sigma) ** 2 + log_mass(alpha - n * sigma, beta - n * sigma) - log_mass(alpha, beta)
        for n in (1, 2)
    )
    return np.exp(first), 1 / np.sqrt(np.expm1(np.maximum(second - 2 * first, 1e-12)))


def forward(net: Net, x: Array, gates: list[Array]) -> tuple[Array, list[Array]]:
    """(4) Logits (B, C) of inputs (B, I) with these gates (I,) for each layer, and the inputs of all layers."""
    inputs = []
    for layer, z in zip(net, gates, strict=True):
        inputs.append(x)
        y = (x * z) @ layer["theta"] + layer["bias"]  #                        (B, O)
        x = np.maximum(y, 0)
    return y, inputs


def loss_and_gradients(
    net: Net, x: Array, labels: Array, n_train: int, kl_weight: float, uniforms: list[Array]
) -> tuple[float, Net]:
    """Mean NLL + kl_weight KL / N of one batch, and its gradient for every array; uniforms are quantiles (I,)."""
    samples = [sample(layer["mu"], layer["log_sd"], u) for layer, u in zip(net, uniforms, strict=True)]
    logits, inputs = forward(net, x, [z for z, _, _ in samples])
    loss, dy = cross_entropy(logits, labels)
    gradients: Net = []
    for layer, layer_in, (z, slope_mu, slope_sd) in zip(net[::-1], inputs[::-1], samples[::-1], strict=True):
        d_gated = dy @ layer["theta"].T  #                                     (B, I)
        d_log_z = (d_gated * layer_in).sum(axis=0) * z  #                      (I,)
        kl, kl_mu, kl_sd = kl_divergence(layer["mu"], layer["log_sd"])
        loss += kl_weight / n_train * kl
        gradient = {
            "theta": (layer_in * z).T @ dy,
            "bias": dy.sum(axis=0),
            "mu": d_log_z * slope_mu + kl_weight / n_train * kl_mu,
            "log_sd": d_log_z * slope_sd + kl_weight / n_train * kl_sd,
        }
        gradients.insert(0, gradient)
        dy = d_gated * z * (layer_in > 0)  # through the gate, then through the ReLU that made the input
    return loss, gradients


def adam_step(net: Net, gradients: Net, moments: tuple[Net, Net], lr: float, step: int, gates: bool = True) -> None:
    """(5) Move arrays against their gradients, in place; the gates stay where they are in a dense network."""
    for layer, gradient, m, v in zip(net, gradients, *moments, strict=True):
        for name, g in gradient.items():
            m[name] += 0.1 * (g - m[name])
            v[name] += 0.001 * (g**2 - v[name])
            m_hat, v_hat = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            factor = (GATE_SPEED if gates else 0) if name in ("mu", "log_sd") else 1
            layer[name] -= lr * factor * m_hat / (np.sqrt(v_hat) + 1e-8)
        np.clip(layer["mu"], LOW, HIGH, out=layer["mu"])
        np.clip(layer["log_sd"], -10, 5, out=layer["log_sd"])


def final_gates(net: Net) -> list[Array]:
    """(6) E z of live gates and 0 of dead ones, an array (I,) for each layer."""
    found = [mean_and_snr(layer["mu"], layer["log_sd"]) for layer in net]
    return [np.where(snr >= THRESHOLD, mean, 0) for mean, snr in found]


def make_net(*sizes: int, seed: int = 0) -> Net:
    """New layers of these sizes: theta as in He et al. 2015, gates close to 1 and hardly noisy."""
    rng = np.random.default_rng(seed)
    thetas = [rng.normal(0, np.sqrt(2 / n_in), (n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    return [
        {"theta": t, "bias": np.zeros(t.shape[1]), "mu": np.zeros(len(t)), "log_sd": np.full(len(t), -5.0)}
        for t in thetas
    ]


def main(dense_epochs: int = 20, epochs: int = 60, batch: int = 50, lr: float = 5e-3, seed: int = 0) -> None:
    """Train 64-100-10, then open its gates to noise, and print how inputs and hidden units die."""
    name, x, labels = load_problem()
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[360:], order[:360]
    net, step = make_net(x.shape[1], 100, 10, seed=seed), 0
    moments, rng = (zeros_like(net), zeros_like(net)), np.random.default_rng(seed)
    print(f"{name}: {len(train)} training and {len(test)} test examples")
    print("epoch      loss  test error  live inputs  hidden units  weights left")
    for epoch in range(dense_epochs + epochs):
        noisy = epoch >= dense_epochs
        if epoch == dense_epochs:
            moments, step = (zeros_like(net), zeros_like(net)), 0
        rate = lr * min(1.0, 3 * (1 - (epoch - dense_epochs) / epochs))
        order = rng.permutation(train)
        for rows in np.split(order, range(batch, len(order), batch)):
            uniforms = [rng.random(len(layer["mu"])) if noisy else np.full(len(layer["mu"]), 0.5) for layer in net]
            loss, gradients = loss_and_gradients(net, x[rows], labels[rows], len(train), float(noisy), uniforms)
            adam_step(net, gradients, moments, rate, step, gates=noisy)
            step += 1
        gates = final_gates(net)
        error = (forward(net, x[test], gates)[0].argmax(axis=1) != labels[test]).mean()
        inputs, hidden = (int((z > 0).sum()) for z in gates)
        left, total = inputs * hidden + hidden * 10, sum(layer["theta"].size for layer in net)
        print(f"{epoch + 1:5}  {loss:8.4f}  {error:10.1%}  {inputs:11}  {hidden:12}  {left:5} of {total}")
