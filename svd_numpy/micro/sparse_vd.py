"""Sparse Variational Dropout in one file of plain NumPy: the whole algorithm, top to bottom.

Run it: `python -m svd_numpy.micro sparse_vd`.

Every weight of a network is a Gaussian N(theta, sigma^2) instead of a number, and training learns both. The
KL term rewards noise: a weight that the data do not need grows noisier until its noise drowns it. Once
log_alpha = log(sigma^2 / theta^2) is above 3, it is removed. Usually most weights go. Below, in this order:

    (1) noise     a pure function of (seed, layer, step, example, unit):
                  Philox4x32-10 (Salmon et al. 2011) and Box-Muller
    (2) forward   y = x theta + bias + sqrt(x^2 sigma^2) noise
                  A sum of Gaussian weights is Gaussian, so sample the sum: "local reparametrisation"
                  (Kingma et al. 2015; Molchanov et al. 2017, section 4.3)
    (3) backward  the chain rule through (2), written by hand
    (4) NLL       softmax cross-entropy, -log p(y | x, w) in nats
    (5) KL        with s = theta^2 / sigma^2 = 1 / alpha and t = e^-k2 s^k3, for each weight, in nats
                  KL = log(1 + s) / 2 + k1 t / (1 + t)
                  v = 1 / (1 + s) + 2 k1 k3 e^-k2 s^(k3 - 1) / (1 + t)^2
                  dKL/dtheta = v theta / sigma^2         dKL/dlog_sigma2 = -s v / 2
                  This is eq. 14 of Molchanov et al. 2017, written without log(theta^2), which may be log(0)
    (6) loss      mean NLL + kl_weight KL / N: with weight 1 the negative evidence lower bound (eq. 3 there)
    (7) Adam      Kingma & Ba 2015, algorithm 1
    (8) pruning   keep a weight where log_alpha <= 3, that is where s >= e^-3

Shapes: B examples in a batch, N in the training set, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# {"theta": (I, O), "log_sigma2": (I, O), "bias": (O,)}; gradients and Adam's moments look the same.
Layer = dict[str, Array]
Net = list[Layer]  # dense layers with a ReLU after each but the last

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # the constants of (5), as in the paper
THRESHOLD = 3.0  # on log_alpha


def normals(seed: int, layer: int, step: int, rows: int, units: int) -> Array:
    """(1) Standard normals, array (rows, units): no state, so equal arguments give equal numbers."""
    groups = -(-units // 64)  # 16 hashes of 4 words each make 64 normals
    block = np.arange(16 * groups).reshape(groups, 16)
    counter = np.broadcast_arrays(block, np.arange(rows).reshape(rows, 1, 1), step, layer)
    words: list[Array] = [c.astype(np.uint64) for c in counter]  # each (rows, groups, 16), of 32 bits
    c0, c1, c2, c3 = words
    k0, k1 = seed % 2**32, seed // 2**32 % 2**32
    for _ in range(10):  # ten rounds: multiply, keep both halves, mix them with the key
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    pairs = []
    for a, b in ((c0, c1), (c2, c3)):  # Box-Muller: 24 bits for the radius, 24 for the angle
        radius, angle = np.sqrt(-2 * np.log(((a >> 8) + 1) / 2**24)), 2 * np.pi * ((b >> 8) / 2**24 - 0.5)
        pairs += [radius * np.sin(angle), radius * np.cos(angle)]
    normal = np.stack(pairs, axis=2)  # (rows, groups, 4, 16)
    return normal.reshape(rows, 64 * groups)[:, :units]


def forward(net: Net, x: Array, seed: int, step: int) -> tuple[Array, list[tuple[Array, Array, Array]]]:
    """(2) Noisy logits (B, C) of inputs (B, I), and what `backward` needs of each layer."""
    tape = []
    for number, layer in enumerate(net):
        mean = x @ layer["theta"] + layer["bias"]  #                           (B, O)
        std = np.sqrt(x**2 @ np.exp(layer["log_sigma2"]))  # no bias in here   (B, O)
        noise = normals(seed, 2 * number, step, *mean.shape)  # odd: the ReLUs (B, O)
        y = mean + std * noise  #                                              (B, O)
        tape.append((x, std, noise))
        x = np.maximum(y, 0)  # ReLU, but not after the last layer             (B, I of the next layer)
    return y, tape


def backward(net: Net, tape: list[tuple[Array, Array, Array]], dy: Array) -> Net:
    """(3) Gradients of the NLL, given that for the logits, dy (B, C): `forward` read from bottom to top."""
    gradients: Net = []
    for layer, (x, std, noise) in zip(reversed(net), reversed(tape), strict=True):
        sigma2 = np.exp(layer["log_sigma2"])  #                                (I, O)
        # std is 0 where all inputs are 0; the huge dvar that the floor allows there is only multiplied by x = 0.
        dvar = dy * noise / np.maximum(2 * std, 1e-15)  #                      (B, O)
        d_sigma2 = (x**2).T @ dvar  #                                          (I, O)
        gradients.insert(0, {"theta": x.T @ dy, "log_sigma2": d_sigma2 * sigma2, "bias": dy.sum(axis=0)})
        dx = dy @ layer["theta"].T + 2 * x * (dvar @ sigma2.T)  #              (B, I)
        dy = dx * (x > 0)  # through the ReLU that made x                      (B, O of the layer before)
    return gradients


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """(4) Mean NLL in nats of labels (B,) under softmax(logits), logits (B, C), and its gradient (B, C)."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  #    (B, C)
    d_logits = np.exp(log_p)
    d_logits[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), d_logits / len(labels)


def kl_divergence(theta: Array, log_sigma2: Array) -> tuple[float, Array, Array]:
    """(5) KL of a layer from the log-uniform prior, in nats, and its gradients for theta and log_sigma2."""
    precision = np.exp(-log_sigma2)
    s = theta**2 * precision  #                                                (I, O)
    t = np.exp(-K2) * s**K3
    value = 0.5 * np.log1p(s) + K1 * t / (1 + t)
    v = 1 / (1 + s) + 2 * K1 * K3 * np.exp(-K2) * s ** (K3 - 1) / (1 + t) ** 2
    return float(value.sum()), v * theta * precision, -0.5 * s * v


def loss_and_gradients(
    net: Net, x: Array, labels: Array, n_train: int, kl_weight: float, seed: int, step: int
) -> tuple[float, Net]:
    """(6) The loss of one batch in nats per example, and its gradient for every array."""
    logits, tape = forward(net, x, seed, step)
    loss, d_logits = cross_entropy(logits, labels)
    gradients = backward(net, tape, d_logits)
    for layer, gradient in zip(net, gradients, strict=True):
        value, d_theta, d_log_sigma2 = kl_divergence(layer["theta"], layer["log_sigma2"])
        loss += kl_weight / n_train * value
        gradient["theta"] += kl_weight / n_train * d_theta
        gradient["log_sigma2"] += kl_weight / n_train * d_log_sigma2
    return loss, gradients


def adam_step(net: Net, gradients: Net, moments: tuple[Net, Net], lr: float, step: int) -> None:
    """(7) Move every array against its gradient, in place; steps count from 0."""
    for layer, gradient, m, v in zip(net, gradients, *moments, strict=True):
        for name, g in gradient.items():
            m[name] += 0.1 * (g - m[name])  # beta1 = 0.9
            v[name] += 0.001 * (g**2 - v[name])  # beta2 = 0.999
            m_hat, v_hat = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            layer[name] -= lr * m_hat / (np.sqrt(v_hat) + 1e-8)
        np.clip(layer["log_sigma2"], -20, 10, out=layer["log_sigma2"])


def kept(layer: Layer) -> Array:
    """(8) Which weights survive, array (I, O) of bool."""
    return np.asarray(layer["theta"] ** 2 >= np.exp(layer["log_sigma2"] - THRESHOLD))


def predict(net: Net, x: Array) -> Array:
    """Logits (B, C) of the pruned network: only the surviving means, and no noise."""
    for number, layer in enumerate(net):
        x = (x if number == 0 else np.maximum(x, 0)) @ (layer["theta"] * kept(layer)) + layer["bias"]
    return x


def make_net(*sizes: int, seed: int = 0) -> Net:
    """New layers of these sizes: theta as in He et al. 2015, log_sigma2 -10 (hardly any noise), bias 0."""
    rng = np.random.default_rng(seed)
    thetas = [rng.normal(0, np.sqrt(2 / n_in), (n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    return [{"theta": t, "log_sigma2": np.full(t.shape, -10.0), "bias": np.zeros(t.shape[1])} for t in thetas]


def zeros_like(net: Net) -> Net:
    """Layers of the same shapes, filled with 0."""
    return [{name: np.zeros_like(array) for name, array in layer.items()} for layer in net]


def load_problem() -> tuple[str, Array, Array]:
    """Name, inputs (N, I), labels (N,): scikit-learn's digits or, without it, the answers of a sparse teacher."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(1797, 64))
        teacher = rng.normal(size=(64, 10)) * (rng.random((64, 10)) < 0.1)  # one weight in ten is not 0
        return "sparse teacher", x, (x @ teacher).argmax(axis=1)
    pixels, labels = load_digits(return_X_y=True)
    return "8x8 digits", pixels / 16, labels


def main(epochs: int = 60, batch: int = 50, lr: float = 5e-3, seed: int = 0) -> None:
    """Train 64-100-10 from scratch and print, epoch by epoch, how weights die while the error stays the same."""
    name, x, labels = load_problem()
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[360:], order[:360]
    net, step = make_net(x.shape[1], 100, 10, seed=seed), 0
    moments = zeros_like(net), zeros_like(net)
    print(f"{name}: {len(train)} training and {len(test)} test examples")
    print("epoch  kl_weight   loss  test error  sparsity  weights kept")
    for epoch in range(epochs):
        kl_weight = min(1.0, epoch / (epochs / 3))  # warm-up: first learn, then drop what is not needed
        rate = lr * min(1.0, 3 * (1 - epoch / epochs))  # constant, then linearly to 0
        order = np.random.default_rng([seed, epoch]).permutation(train)
        for rows in np.split(order, range(batch, len(order), batch)):
            x_batch, y_batch = x[rows], labels[rows]
            loss, gradients = loss_and_gradients(net, x_batch, y_batch, len(train), kl_weight, seed, step)
            adam_step(net, gradients, moments, rate, step)
            step += 1
        error = (predict(net, x[test]).argmax(axis=1) != labels[test]).mean()
        alive, total = sum(kept(layer).sum() for layer in net), sum(layer["theta"].size for layer in net)
        numbers = f"{epoch + 1:5}  {kl_weight:9.2f}  {loss:5.2f}  {error:10.1%}  {1 - alive / total:8.1%}"
        print(f"{numbers}  {alive:5} of {total}")
