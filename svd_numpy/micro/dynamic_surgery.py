"""Dynamic Network Surgery in one file of plain NumPy (Guo, Yao, Chen 2016): pruned weights may come back.

Run it: `python -m svd_numpy.micro dynamic_surgery`. Read `sparse_vd.py` first; its softmax and its digits are used
here.

No noise and no prior: the network computes with theta T, where the mask T is 1 or 0 for each weight. The trick is
what happens to a weight whose T is 0: it goes on learning from the gradient of the pruned network ("straight
through"), and comes back if it grows large. Below, in this order:

    (1) forward   y = x (theta T) + bias
    (2) backward  dtheta = x^T dy for all weights, as if T were 1;  dx = dy (theta T)^T
    (3) surgery   with the threshold t = mean |theta| + c std |theta| of the dense layer, measured once:
                  T = 0 where |theta| <= 0.9 t,  T = 1 where |theta| > 1.1 t,  otherwise T stays as it is:
                  the gap keeps weights from coming and going at every step
    (4) when      at each step with probability 1 / (1 + gamma step), and not at all in the last epochs, which
                  let the survivors settle
    (5) Adam      Kingma & Ba 2015, algorithm 1

Shapes: B examples in a batch, I inputs and O outputs of a layer, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from svd_numpy.micro.sparse_vd import Array, Net, cross_entropy, load_problem, zeros_like

# A layer is {"theta": (I, O), "bias": (O,)}; its mask is an array (I, O) of bool.
Masks = list[Array]

C = 2.5  # how many standard deviations above the mean of |theta| the threshold lies: more prunes more
GAMMA = 1e-3  # how fast surgeries become rare


def forward(net: Net, masks: Masks, x: Array) -> tuple[Array, list[Array]]:
    """(1) Logits (B, C) of inputs (B, I), and the inputs of all layers."""
    inputs = []
    for layer, mask in zip(net, masks, strict=True):
        inputs.append(x)
        y = x @ (layer["theta"] * mask) + layer["bias"]  #                     (B, O)
        x = np.maximum(y, 0)
    return y, inputs


def loss_and_gradients(net: Net, masks: Masks, x: Array, labels: Array) -> tuple[float, Net]:
    """(2) Mean NLL of one batch in nats, and its gradient; that of theta is for theta T, and goes to all weights."""
    logits, inputs = forward(net, masks, x)
    loss, dy = cross_entropy(logits, labels)
    gradients: Net = []
    for layer, mask, layer_in in zip(net[::-1], masks[::-1], inputs[::-1], strict=True):
        gradients.insert(0, {"theta": layer_in.T @ dy, "bias": dy.sum(axis=0)})
        dy = dy @ (layer["theta"] * mask).T * (layer_in > 0)
    return loss, gradients


def thresholds(net: Net, c: float = C) -> list[float]:
    """(3) t of each layer."""
    sizes = [np.abs(layer["theta"]) for layer in net]
    return [float(size.mean() + c * size.std()) for size in sizes]


def surgery(theta: Array, mask: Array, threshold: float) -> Array:
    """(3) The new mask of a layer: small weights leave, large ones come back, those in between stay as they are."""
    size = np.abs(theta)
    return np.asarray(np.where(mask, size > 0.9 * threshold, size > 1.1 * threshold))


def operates(step: int, last: int, seed: int) -> bool:
    """(4) Whether there is a surgery at this step, counted from the end of the dense training."""
    return step < last and bool(np.random.default_rng([seed, step]).random() < 1 / (1 + GAMMA * step))


def adam_step(net: Net, gradients: Net, moments: tuple[Net, Net], lr: float, step: int) -> None:
    """(5) Move every array against its gradient, in place; steps count from 0."""
    for layer, gradient, m, v in zip(net, gradients, *moments, strict=True):
        for name, g in gradient.items():
            m[name] += 0.1 * (g - m[name])
            v[name] += 0.001 * (g**2 - v[name])
            m_hat, v_hat = m[name] / (1 - 0.9 ** (step + 1)), v[name] / (1 - 0.999 ** (step + 1))
            layer[name] -= lr * m_hat / (np.sqrt(v_hat) + 1e-8)


def make_net(*sizes: int, seed: int = 0) -> Net:
    """New layers of these sizes: theta as in He et al. 2015, bias 0."""
    rng = np.random.default_rng(seed)
    thetas = [rng.normal(0, np.sqrt(2 / n_in), (n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    return [{"theta": theta, "bias": np.zeros(theta.shape[1])} for theta in thetas]


def main(dense_epochs: int = 20, epochs: int = 40, batch: int = 50, lr: float = 5e-3, seed: int = 0) -> None:
    """Train 64-100-10, then operate, and print how weights leave and come back while the error stays the same."""
    name, x, labels = load_problem()
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[360:], order[:360]
    net, step = make_net(x.shape[1], 100, 10, seed=seed), 0
    masks, limits = [np.ones(layer["theta"].shape, bool) for layer in net], [0.0 for _ in net]
    moments, rng = (zeros_like(net), zeros_like(net)), np.random.default_rng(seed)
    total, last = sum(mask.size for mask in masks), epochs * 3 // 4 * -(-len(train) // batch)
    print(f"{name}: {len(train)} training and {len(test)} test examples")
    print("epoch      loss  test error    left  came back  weights left")
    for epoch in range(dense_epochs + epochs):
        if epoch == dense_epochs:
            moments, step, limits = (zeros_like(net), zeros_like(net)), 0, thresholds(net)
        rate = lr * min(1.0, 3 * (1 - (epoch - dense_epochs) / epochs))
        left = back = 0
        order = rng.permutation(train)
        for rows in np.split(order, range(batch, len(order), batch)):
            if epoch >= dense_epochs and operates(step, last, seed):
                new = [surgery(la["theta"], mask, t) for la, mask, t in zip(net, masks, limits, strict=True)]
                left += sum(int((old & ~now).sum()) for old, now in zip(masks, new, strict=True))
                back += sum(int((now & ~old).sum()) for old, now in zip(masks, new, strict=True))
                masks = new
            loss, gradients = loss_and_gradients(net, masks, x[rows], labels[rows])
            adam_step(net, gradients, moments, rate, step)
            step += 1
        error = (forward(net, masks, x[test])[0].argmax(axis=1) != labels[test]).mean()
        alive = sum(int(mask.sum()) for mask in masks)
        print(f"{epoch + 1:5}  {loss:8.4f}  {error:10.1%}  {left:6}  {back:9}  {alive:5} of {total}")
