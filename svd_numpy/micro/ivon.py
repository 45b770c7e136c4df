"""IVON in one file of plain NumPy (Shen et al. 2024): a Gaussian over the weights at about the price of Adam.

Run it: `python -m svd_numpy.micro ivon`. Read `sparse_vd.py` first; its softmax and its digits are used here.

Sparse VD learns a sigma for every weight by its gradient. IVON gets it for nothing: an optimiser that divides gradients
by the curvature h of the loss knows already how sharply each weight is determined, and that is the precision of the
posterior. With N training examples and a prior N(0, 1 / (N delta)) for each weight, below, in this order:

    (1) posterior  q(w) = N(m, sigma^2),  sigma = 1 / sqrt(N (h + delta))
    (2) sample     w = m + sigma e,  e ~ N(0, 1), once for each batch
    (3) gradient   g^ = d(mean NLL) / dw, by ordinary backprop
    (4) curvature  h^ = g^ e / sigma: its mean is that of the second derivative (Price 1958), and no second derivative
                   is ever computed
    (5) averages   g <- b1 g + (1 - b1) g^
                   h <- b2 h + (1 - b2) h^ + (1 - b2)^2 (h - h^)^2 / (2 (h + delta)),
                   whose last term keeps h + delta positive, however noisy h^ is
    (6) step       m <- m - lr (g / (1 - b1^t) + delta m) / (h + delta)
    (7) pruning    the weights with the least |m| / sigma leave: those of which not even the sign is known

Biases are weights like all others. Shapes: B examples in a batch, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from svd_numpy.micro.sparse_vd import Array, Net, cross_entropy, load_problem

# A layer is {"theta": (I, O), "bias": (O,)}, for the means m, the samples w, the averages g and h, and gradients alike.

BETA1, BETA2 = 0.9, 0.998
DELTA = 1e-3  # the prior is N(0, 1 / (N delta))
H_START = 0.1


def sigma(h: Array, examples: int, delta: float = DELTA) -> Array:
    """(1) Standard deviation of the posterior of each weight."""
    return 1 / np.sqrt(examples * (h + delta))


def forward(net: Net, x: Array) -> tuple[Array, list[Array]]:
    """Logits (B, C) of inputs (B, I), and the inputs of all layers."""
    inputs = []
    for layer in net:
        inputs.append(x)
        y = x @ layer["theta"] + layer["bias"]  #                              (B, O)
        x = np.maximum(y, 0)
    return y, inputs


def loss_and_gradients(net: Net, x: Array, labels: Array) -> tuple[float, Net]:
    """(3) Mean NLL of one batch in nats, and its gradient."""
    logits, inputs = forward(net, x)
    loss, dy = cross_entropy(logits, labels)
    gradients: Net = []
    for layer, layer_in in zip(net[::-1], inputs[::-1], strict=True):
        gradients.insert(0, {"theta": layer_in.T @ dy, "bias": dy.sum(axis=0)})
        dy = dy @ layer["theta"].T * (layer_in > 0)
    return loss, gradients


def new_curvature(h: Array, estimate: Array, delta: float = DELTA, beta2: float = BETA2) -> Array:
    """(5) The average h after one more estimate h^."""
    change = (1 - beta2) * (estimate - h)
    return np.asarray(h + change + change**2 / (2 * (h + delta)))


def step(
    means: Net, averages: tuple[Net, Net], noise: Net, x: Array, labels: Array, examples: int, lr: float, t: int
) -> float:
    """(2) to (6) for one batch, in place; t counts from 0. Returns its mean NLL in nats."""
    stds = [{name: sigma(h, examples) for name, h in layer.items()} for layer in averages[1]]
    sample = [{name: m[name] + std[name] * e[name] for name in m} for m, std, e in zip(means, stds, noise, strict=True)]
    loss, gradients = loss_and_gradients(sample, x, labels)
    for m, gradient, g, h, std, e in zip(means, gradients, *averages, stds, noise, strict=True):
        for name in m:
            g[name] += (1 - BETA1) * (gradient[name] - g[name])
            h[name] = new_curvature(h[name], gradient[name] * e[name] / std[name])
            slope = g[name] / (1 - BETA1 ** (t + 1)) + DELTA * m[name]
            m[name] -= lr * slope / (h[name] + DELTA)
    return loss


def pruned(means: Net, scores: list[Array], share: float) -> Net:
    """(7) The network without that share of its weights, those with the lowest scores."""
    least = np.quantile(np.concatenate([score.ravel() for score in scores]), share)
    return [{**m, "theta": np.where(score > least, m["theta"], 0)} for m, score in zip(means, scores, strict=True)]


def make_net(*sizes: int, seed: int = 0) -> Net:
    """Means of new layers of these sizes: theta as in He et al. 2015, bias 0."""
    rng = np.random.default_rng(seed)
    thetas = [rng.normal(0, np.sqrt(2 / n_in), (n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    return [{"theta": theta, "bias": np.zeros(theta.shape[1])} for theta in thetas]


def start_averages(means: Net) -> tuple[Net, Net]:
    """The averages g and h before the first step."""
    g, h = ([{name: np.full_like(a, start) for name, a in layer.items()} for layer in means] for start in (0, H_START))
    return g, h


def main(epochs: int = 60, batch: int = 50, lr: float = 0.1, seed: int = 0) -> None:
    """Train 64-100-10, and prune by |m| / sigma and, for comparison, by |m|, without any training after it."""
    name, x, labels = load_problem()
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[360:], order[:360]
    means, rng, t = make_net(x.shape[1], 100, 10, seed=seed), np.random.default_rng(seed), 0
    averages = start_averages(means)
    print(f"{name}: {len(train)} training and {len(test)} test examples")
    print("epoch      loss  test error  median sigma  median |m| / sigma")
    for epoch in range(epochs):
        order = rng.permutation(train)
        for rows in np.split(order, range(batch, len(order), batch)):
            noise = [{key: rng.standard_normal(a.shape) for key, a in layer.items()} for layer in means]
            rate = lr * min(1.0, 2 * (1 - epoch / epochs))
            loss, t = step(means, averages, noise, x[rows], labels[rows], len(train), rate, t), t + 1
        stds = [sigma(h["theta"], len(train)) for h in averages[1]]
        ratios = [np.abs(m["theta"]) / std for m, std in zip(means, stds, strict=True)]
        if (epoch + 1) % 5 == 0:
            spread, known = (np.median(np.concatenate([a.ravel() for a in arrays])) for arrays in (stds, ratios))
            print(f"{epoch + 1:5}  {loss:8.4f}  {_error(means, x, labels, test):10.1%}  {spread:12.4f}  {known:18.2f}")
    print("weights left  error, by |m| / sigma  error, by |m|")
    sizes = [np.abs(m["theta"]) for m in means]
    for share in (0, 0.5, 0.7, 0.8, 0.9, 0.95):
        nets = [pruned(means, scores, share) for scores in (ratios, sizes)]
        left = sum(int(np.count_nonzero(layer["theta"])) for layer in nets[0])
        errors = [_error(net, x, labels, test) for net in nets]
        print(f"{left:4} of {sum(size.size for size in sizes)}  {errors[0]:21.1%}  {errors[1]:13.1%}")


def _error(net: Net, x: Array, labels: Array, rows: Array) -> float:
    """Share of these examples that the network gets wrong."""
    return float((forward(net, x[rows])[0].argmax(axis=1) != labels[rows]).mean())


if __name__ == "__main__":
    main()
