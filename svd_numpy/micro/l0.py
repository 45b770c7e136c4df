"""L0 regularisation in one file of plain NumPy (Louizos, Welling, Kingma 2018): a price on each live unit.

Run it: `python -m svd_numpy.micro l0`. Read `sparse_vd.py` first; its softmax and its digits are used here.

The number of live units has no gradient. Its expectation has one, if each unit is on at random: each input of a
layer, be it a pixel or a hidden unit, is multiplied by a gate z from the "hard concrete" distribution on [0, 1],
which is exactly 0 and exactly 1 with positive probability and smooth in its parameter a. Below, in this order:

    (1) sample    q = sigmoid((log u - log(1 - u) + a) / beta) for u uniform, z = clip(1.2 q - 0.1, 0, 1)
                  dz/da = 1.2 q (1 - q) / beta where 0 < z < 1, otherwise 0
    (2) price     P(z > 0) = sigmoid(a - beta log(0.1 / 1.1)), times the number of weights behind the gate
    (3) network   y = (x z) theta + bias, one z for each example, and the chain rule through it
    (4) loss      mean NLL + strength / N * price
    (5) Adam      Kingma & Ba 2015, algorithm 1, faster for the gates, which have further to go
    (6) pruning   without noise z = clip(1.2 sigmoid(a) - 0.1, 0, 1), which is 0 for a < -2.398; no threshold to choose

Shapes: B examples in a batch, N in the training set, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from svd_numpy.micro.sparse_vd import Array, Net, cross_entropy, load_problem, zeros_like

# A layer is {"theta": (I, O), "bias": (O,), "a": (I,)}.
LOW, HIGH, BETA = -0.1, 1.1, 2 / 3  # q is stretched to this interval; the temperature
GATE_SPEED = 10.0  # factor on the learning rate of a


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def sample(a: Array, u: Array) -> tuple[Array, Array]:
    """(1) Gates at quantiles u, 0 <= u <= 1, and their derivatives for a."""
    u = np.clip(u, 1e-6, 1 - 1e-6)
    q = sigmoid((np.log(u) - np.log1p(-u) + a) / BETA)
    stretched = LOW + (HIGH - LOW) * q
    inside = (stretched > 0) & (stretched < 1)
    return np.clip(stretched, 0, 1), (HIGH - LOW) * q * (1 - q) / BETA * inside


def share_on(a: Array) -> tuple[Array, Array]:
    """(2) P(z > 0) and its derivative for a."""
    p = sigmoid(a - BETA * np.log(-LOW / HIGH))
    return p, p * (1 - p)


def final_gate(a: Array) -> Array:
    """(6) The gate of the finished network: 0 if it is dead."""
    return np.asarray(np.clip(LOW + (HIGH - LOW) * sigmoid(a), 0, 1))


def forward(net: Net, x: Array, gates: list[Array]) -> tuple[Array, list[Array]]:
    """(3) Logits (B, C) of inputs (B, I) with gates (B, I) or (I,) for each layer, and the inputs of all layers."""
    inputs = []
    for layer, z in zip(net, gates, strict=True):
        inputs.append(x)
        y = (x * z) @ layer["theta"] + layer["bias"]  #                        (B, O)
        x = np.maximum(y, 0)
    return y, inputs


def draw_uniforms(net: Net, rows: int, rng: np.random.Generator) -> list[Array]:
    """Quantiles (B, I) of the gates of each layer, for one pass of so many examples."""
    return [rng.random((rows, len(layer["a"]))) for layer in net]


def loss_and_gradients(
    net: Net, x: Array, labels: Array, n_train: int, strength: float, uniforms: list[Array]
) -> tuple[float, Net]:
    """(4) The loss of one batch in nats per example, and its gradient for every array."""
    samples = [sample(layer["a"], u) for layer, u in zip(net, uniforms, strict=True)]
    logits, inputs = forward(net, x, [z for z, _ in samples])
    loss, dy = cross_entropy(logits, labels)
    gradients: Net = []
    for layer, layer_in, (z, slope) in zip(net[::-1], inputs[::-1], samples[::-1], strict=True):
        d_gated = dy @ layer["theta"].T  #                                     (B, I)
        on, d_on = share_on(layer["a"])
        price = strength / n_train * layer["theta"].shape[1]
        loss += price * float(on.sum())
        gradient = {
            "theta": (layer_in * z).T @ dy,
            "bias": dy.sum(axis=0),
            "a": (d_gated * layer_in * slope).sum(axis=0) + price * d_on,
        }
        gradients.insert(0, gradient)
        dy = d_gated * z * (layer_in > 0)  # through the gate, then through the ReLU that made the input
    return loss, gradients


def adam_step(net: Net, gradients: Net, moments: tuple[Net, Net], lr: float, step: int) -> None:
    """(5) Move every array against its gradient, in place; steps count from 0."""
    for layer, gradient, m, v in zip(net, gradients, *moments, strict=True):
        for name, g in gradient.items():
            m[name] += 0.1 * (g - m[name])
            v[name] += 0.001 * (g**2 - v[name])
            m_hat, v_hat = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            rate = lr * GATE_SPEED if name == "a" else lr
            layer[name] -= rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        np.clip(layer["a"], -np.log(100), np.log(100), out=layer["a"])


def make_net(*sizes: int, seed: int = 0) -> Net:
    """New layers of these sizes: theta as in He et al. 2015, gates of pixels on at 0.8, of hidden units at 0.5."""
    rng = np.random.default_rng(seed)
    net: Net = []
    for n_in, n_out in pairwise(sizes):
        on = 0.8 if not net else 0.5
        theta = rng.normal(0, np.sqrt(2 / n_in), (n_in, n_out))
        net.append({"theta": theta, "bias": np.zeros(n_out), "a": np.full(n_in, np.log(on / (1 - on)))})
    return net


def main(epochs: int = 80, batch: int = 50, lr: float = 5e-3, seed: int = 0, strength: float = 0.4) -> None:
    """Train 64-100-10 from scratch and print how inputs and hidden units die while the error stays the same."""
    name, x, labels = load_problem()
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[360:], order[:360]
    net, step = make_net(x.shape[1], 100, 10, seed=seed), 0
    moments, rng = (zeros_like(net), zeros_like(net)), np.random.default_rng(seed)
    print(f"{name}: {len(train)} training and {len(test)} test examples")
    print("epoch   loss  test error  live inputs  hidden units  weights left")
    for epoch in range(epochs):
        rate = lr * min(1.0, 3 * (1 - epoch / epochs))
        order = rng.permutation(train)
        for rows in np.split(order, range(batch, len(order), batch)):
            uniforms = draw_uniforms(net, len(rows), rng)
            loss, gradients = loss_and_gradients(net, x[rows], labels[rows], len(train), strength, uniforms)
            adam_step(net, gradients, moments, rate, step)
            step += 1
        gates = [final_gate(layer["a"]) for layer in net]
        error = (forward(net, x[test], gates)[0].argmax(axis=1) != labels[test]).mean()
        inputs, hidden = (int((z > 0).sum()) for z in gates)
        left, total = inputs * hidden + hidden * 10, sum(layer["theta"].size for layer in net)
        print(f"{epoch + 1:5}  {loss:5.2f}  {error:10.1%}  {inputs:11}  {hidden:12}  {left:5} of {total}")
