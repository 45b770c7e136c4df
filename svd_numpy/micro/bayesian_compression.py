"""Bayesian Compression in one file of plain NumPy (Louizos, Ullrich, Welling 2017): whole units die.

Run it: `python -m svd_numpy.micro bayesian_compression`. Read `sparse_vd.py` first; its softmax, its digits and
its KL are used here.

Each input of a layer, be it a pixel or a hidden unit, is multiplied by a random gate z ~ N(m, e^v), drawn anew
for every batch. The weights behind it are Gaussian, too. A gate that the data do not need drowns in its noise,
as a weight does in Sparse VD, and takes a whole row of the matrix with it: what is left is a smaller dense
network. Below, in this order:

    (1) forward   x~ = x z with z = m + e^(v/2) gate_noise,  y = x~ theta + bias + sqrt(x~^2 sigma^2) noise
    (2) backward  the chain rule through (1); as z is shared by all outputs, dz = x dx~
    (3) KL        of the gates from p(z) ~ 1/|z| ("normal-Jeffreys"): that of Sparse VD, with m for theta and v
                  for log_sigma2; and of the weights from N(0, 1): (sigma^2 + theta^2 - 1 - log_sigma2) / 2.
                  Not being read by a dead gate, its weights return to N(0, 1): then a dead group costs nothing
    (4) loss      mean NLL + kl_weight KL / N
    (5) Adam      twenty times faster for the gates, which have further to go; then log_sigma2 and v are clipped
    (6) pruning   a gate is dead where log_alpha = v - log m^2 > 0; live ones are folded into the weights

Shapes: B examples in a batch, N in the training set, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from svd_numpy.micro.sparse_vd import Array, Net, cross_entropy, kl_divergence, load_problem, zeros_like

# A layer is {"theta": (I, O), "log_sigma2": (I, O), "bias": (O,), "m": (I,), "v": (I,)}.
Noise = list[tuple[Array, Array]]  # for each layer, that of the gates (I,) and of the outputs (B, O)

THRESHOLD = 0.0  # on log_alpha of a gate: dead and live ones are far apart, so its place hardly matters
MOST_SIGMA = 0.5  # of a weight; more only makes training noisy
GATE_SPEED = 20.0  # factor on the learning rate of m and v


def draw_noise(net: Net, rows: int, rng: np.random.Generator) -> Noise:
    """Standard normals for one pass of so many examples."""
    shapes = [layer["theta"].shape for layer in net]
    return [(rng.standard_normal((n_in,)), rng.standard_normal((rows, n_out))) for n_in, n_out in shapes]


def forward(net: Net, x: Array, noise: Noise) -> tuple[Array, list[tuple[Array, Array, Array]]]:
    """(1) Noisy logits (B, C) of inputs (B, I), and what `backward` needs of each layer."""
    tape = []
    for layer, (gate_noise, out_noise) in zip(net, noise, strict=True):
        z = layer["m"] + np.exp(layer["v"] / 2) * gate_noise  #                (I,)
        gated = x * z  #                                                       (B, I)
        std = np.sqrt(gated**2 @ np.exp(layer["log_sigma2"]))  #               (B, O)
        y = gated @ layer["theta"] + layer["bias"] + std * out_noise  #        (B, O)
        tape.append((x, z, std))
        x = np.maximum(y, 0)
    return y, tape


def backward(net: Net, tape: list[tuple[Array, Array, Array]], noise: Noise, dy: Array) -> Net:
    """(2) Gradients of the NLL, given that for the logits, dy (B, C): `forward` read from bottom to top."""
    gradients: Net = []
    for layer, (x, z, std), (gate_noise, out_noise) in zip(net[::-1], tape[::-1], noise[::-1], strict=True):
        sigma2, gated = np.exp(layer["log_sigma2"]), x * z
        dvar = dy * out_noise / np.maximum(2 * std, 1e-15)  # finite where all inputs are 0   (B, O)
        d_gated = dy @ layer["theta"].T + 2 * gated * (dvar @ sigma2.T)  #     (B, I)
        dz = d_gated * x  #                                                    (B, I)
        gradient = {
            "theta": gated.T @ dy,
            "log_sigma2": (gated**2).T @ dvar * sigma2,
            "bias": dy.sum(axis=0),
            "m": dz.sum(axis=0),
            "v": 0.5 * np.exp(layer["v"] / 2) * (dz * gate_noise).sum(axis=0),
        }
        gradients.insert(0, gradient)
        dy = d_gated * z * (x > 0)  # through the gate, then through the ReLU that made x
    return gradients


def kl_and_gradients(layer: dict[str, Array]) -> tuple[float, dict[str, Array]]:
    """(3) KL of a layer's gates and weights in nats, and its gradients."""
    theta, log_sigma2 = layer["theta"], layer["log_sigma2"]
    gates, d_m, d_v = kl_divergence(layer["m"], layer["v"])
    sigma2 = np.exp(log_sigma2)
    weights = 0.5 * (sigma2 + theta**2 - 1 - log_sigma2).sum()
    return gates + float(weights), {"m": d_m, "v": d_v, "theta": theta, "log_sigma2": 0.5 * (sigma2 - 1)}


def loss_and_gradients(
    net: Net, x: Array, labels: Array, n_train: int, kl_weight: float, noise: Noise
) -> tuple[float, Net]:
    """(4) The loss of one batch in nats per example, and its gradient for every array."""
    logits, tape = forward(net, x, noise)
    loss, d_logits = cross_entropy(logits, labels)
    gradients = backward(net, tape, noise, d_logits)
    for layer, gradient in zip(net, gradients, strict=True):
        kl, more = kl_and_gradients(layer)
        loss += kl_weight / n_train * kl
        for name, d_kl in more.items():
            gradient[name] += kl_weight / n_train * d_kl
    return loss, gradients


def adam_step(net: Net, gradients: Net, moments: tuple[Net, Net], lr: float, step: int) -> None:
    """(5) Move every array against its gradient, in place; steps count from 0."""
    for layer, gradient, m, v in zip(net, gradients, *moments, strict=True):
        for name, g in gradient.items():
            m[name] += 0.1 * (g - m[name])
            v[name] += 0.001 * (g**2 - v[name])
            m_hat, v_hat = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            rate = lr * GATE_SPEED if name in ("m", "v") else lr
            layer[name] -= rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        np.clip(layer["log_sigma2"], -20, 2 * np.log(MOST_SIGMA), out=layer["log_sigma2"])
        np.clip(layer["v"], -20, 10, out=layer["v"])


def live_gates(layer: dict[str, Array]) -> Array:
    """(6) Which inputs of a layer survive, array (I,) of bool."""
    return np.asarray(layer["m"] ** 2 >= np.exp(layer["v"] - THRESHOLD))


def folded(net: Net) -> list[tuple[Array, Array]]:
    """(6) The ordinary network that is left, as (theta, bias) of each layer: smaller matrices, without gates."""
    live = [live_gates(layer) for layer in net] + [np.ones(net[-1]["theta"].shape[1], bool)]
    return [
        ((layer["m"][:, None] * layer["theta"])[np.ix_(ins, outs)], layer["bias"][outs])
        for layer, (ins, outs) in zip(net, pairwise(live), strict=True)
    ]


def predict(net: Net, x: Array) -> Array:
    """Logits (B, C) of the folded network, which reads only the live inputs."""
    x = x[:, live_gates(net[0])]
    for number, (theta, bias) in enumerate(folded(net)):
        x = (x if number == 0 else np.maximum(x, 0)) @ theta + bias
    return x


def make_net(*sizes: int, seed: int = 0) -> Net:
    """New layers of these sizes: theta as in He et al. 2015, gates at 1, and hardly any noise."""
    rng = np.random.default_rng(seed)
    return [
        {
            "theta": rng.normal(0, np.sqrt(2 / n_in), (n_in, n_out)),
            "log_sigma2": np.full((n_in, n_out), -9.0),
            "bias": np.zeros(n_out),
            "m": np.ones(n_in),
            "v": np.full(n_in, -9.0),
        }
        for n_in, n_out in pairwise(sizes)
    ]


def main(epochs: int = 60, batch: int = 50, lr: float = 5e-3, seed: int = 0, kl: float = 1.0) -> None:
    """Train 64-100-10 from scratch and print how inputs and hidden units die while the error stays the same."""
    name, x, labels = load_problem()
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[360:], order[:360]
    net, step = make_net(x.shape[1], 100, 10, seed=seed), 0
    moments, rng = (zeros_like(net), zeros_like(net)), np.random.default_rng(seed)
    total = sum(layer["theta"].size for layer in net)
    print(f"{name}: {len(train)} training and {len(test)} test examples")
    print("epoch  kl_weight   loss  test error  live inputs  hidden units  weights left")
    for epoch in range(epochs):
        kl_weight = kl * min(1.0, epoch / (epochs / 2))
        rate = lr * min(1.0, 3 * (1 - epoch / epochs))
        order = rng.permutation(train)
        for rows in np.split(order, range(batch, len(order), batch)):
            noise = draw_noise(net, len(rows), rng)
            loss, gradients = loss_and_gradients(net, x[rows], labels[rows], len(train), kl_weight, noise)
            adam_step(net, gradients, moments, rate, step)
            step += 1
        error = (predict(net, x[test]).argmax(axis=1) != labels[test]).mean()
        inputs, hidden = (int(live_gates(layer).sum()) for layer in net)
        left, numbers = sum(theta.size for theta, _ in folded(net)), f"{epoch + 1:5}  {kl_weight:9.2f}  {loss:5.2f}"
        print(f"{numbers}  {error:10.1%}  {inputs:11}  {hidden:12}  {left:5} of {total}")
