"""Recurrent Sparse VD in one file of plain NumPy (Chirkova, Lobacheva, Vetrov 2018): an LSTM that learns to write.

Run it: `python -m svd_numpy.micro lstm`. Read `sparse_vd.py` first; its noise, softmax, KL and Adam are used here.

A language model reads a text letter by letter and predicts the next one. An LSTM layer (Hochreiter and Schmidhuber
1997) reads, a dense layer predicts. Both have Gaussian weights, of which most will be removed. Below, in this order:

    (1) sample    W = theta + sigma noise, drawn once for a batch: a sequence is read with the same weights from its
                  first letter to its last. Fresh noise at every step would average out, and be another model.
                  From dW follow d_theta = dW and d_log_sigma2 = dW sigma noise / 2
    (2) cell      a = W[letter] + h W[V:] + bias, in four parts: i, f, o = sigmoid(a), g = tanh(a), then
                  c = f c' + i g    and    h = o tanh(c)    with c' from the letter before
    (3) forward   (2) letter by letter, then logits from every h, by the local reparametrisation of sparse_vd.py
    (4) backward  the chain rule through (3), from the last letter to the first
    (5) clipping  recurrent gradients may explode: one of norm above 1 is shortened to it
    (6) loss      mean NLL + kl_weight KL / N, in nats per letter, of which the training text has N
    (7) pruning   keep a weight where log_alpha <= 3; a gate none of whose inputs is left is a constant

The text is cut into B pieces of equal length, which are read side by side, T letters in a batch. The state (h, c) at
the end of a batch is the one at the start of the next; gradients stop there.

Shapes: B sequences, T steps, H units, V letters of the alphabet. The LSTM's theta (V + H, 4H) has a row for every
letter, then one for every unit; its columns are those of the gates i, f, g, o.
"""

from __future__ import annotations

import numpy as np

from svd_numpy.micro.sparse_vd import Array, Layer, Net, adam_step, cross_entropy, kept, kl_divergence, normals

State = tuple[Array, Array]  # h and c, each (B, H)

# "This is the House That Jack Built", a nursery rhyme: each verse tells the whole story so far, backwards.
LINES = (
    "the house that Jack built.",
    "the malt that lay in",
    "the rat that ate",
    "the cat that killed",
    "the dog that worried",
    "the cow with the crumpled horn that tossed",
    "the maiden all forlorn that milked",
    "the man all tattered and torn that kissed",
    "the priest all shaven and shorn that married",
    "the cock that crowed in the morn that woke",
    "the farmer sowing his corn that kept",
)
TEXT = "\n".join("This is " + " ".join(reversed(LINES[: verse + 1])) for verse in range(len(LINES))) + "\n"
ALPHABET = "".join(sorted(set(TEXT)))


def encode(text: str) -> Array:
    """Numbers of letters, array (len(text),) of int; ValueError for a letter that is not in the alphabet."""
    return np.array([ALPHABET.index(letter) for letter in text])


def sigmoid(a: Array) -> Array:
    """1 / (1 + e^-a), by tanh, so that it cannot overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * a))


def cell(a: Array, c: Array) -> tuple[Array, ...]:
    """(2) The gates i, f, g, o and the new c and h, each (B, H), of pre-activations (B, 4H) and the old c."""
    i, f, g, o = np.split(a, 4, axis=1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    return i, f, g, o, c, o * np.tanh(c)


def forward(net: Net, x: Array, state: State, seed: int, step: int) -> tuple[Array, State, tuple[Array, ...]]:
    """(3) Noisy logits (B, T, V) of letters (B, T), the last state, and what `backward` needs."""
    lstm, dense = net
    noise = normals(seed, 0, step, *lstm["theta"].shape)
    weights = lstm["theta"] + np.exp(lstm["log_sigma2"] / 2) * noise  # (1)     (V + H, 4H)
    letters, recurrent = np.split(weights, [len(ALPHABET)])
    (h, c), tape = state, []
    for t in range(x.shape[1]):
        a = letters[x[:, t]] + h @ recurrent + lstm["bias"]  #                 (B, 4H)
        i, f, g, o, new_c, new_h = cell(a, c)
        tape.append(np.stack([h, c, i, f, g, o, np.tanh(new_c)]))  #           (7, B, H)
        h, c = new_h, new_c
    steps = np.stack(tape)  #                                                  (T, 7, B, H)
    hidden = (steps[:, 5] * steps[:, 6]).swapaxes(0, 1)  # every h             (B, T, H)
    rows = hidden.reshape(-1, hidden.shape[2])  #                              (B T, H)
    mean = rows @ dense["theta"] + dense["bias"]  #                            (B T, V)
    std = np.sqrt(rows**2 @ np.exp(dense["log_sigma2"]))
    dense_noise = normals(seed, 1, step, *mean.shape)
    logits = (mean + std * dense_noise).reshape(*x.shape, -1)
    return logits, (h, c), (x, noise, recurrent, steps, rows, std, dense_noise)


def backward(net: Net, tape: tuple[Array, ...], dy: Array) -> Net:
    """(4) Gradients of the NLL, given that for the logits, dy (B T, V)."""
    (lstm, dense), (x, noise, recurrent, steps, rows, std, dense_noise) = net, tape
    sigma2 = np.exp(dense["log_sigma2"])  #                                    (H, V)
    dvar = dy * dense_noise / np.maximum(2 * std, 1e-15)  #                    (B T, V)
    d_dense = {"theta": rows.T @ dy, "log_sigma2": (rows**2).T @ dvar * sigma2, "bias": dy.sum(axis=0)}
    d_rows = dy @ dense["theta"].T + 2 * rows * (dvar @ sigma2.T)
    d_hidden = d_rows.reshape(*x.shape, -1)  #                                 (B, T, H)

    d_weights, d_bias = np.zeros_like(noise), np.zeros_like(lstm["bias"])
    dh, dc = np.zeros_like(steps[0, 0]), np.zeros_like(steps[0, 0])  # nothing from behind the batch
    for t in reversed(range(x.shape[1])):
        h, c, i, f, g, o, tanh_c = steps[t]
        dh = dh + d_hidden[:, t]
        dc = dc + dh * o * (1 - tanh_c**2)
        da = np.hstack([dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)])
        np.add.at(d_weights, x[:, t], da)  # each sequence adds to the row of its letter
        d_weights[len(ALPHABET) :] += h.T @ da
        d_bias += da.sum(axis=0)
        dh, dc = da @ recurrent.T, dc * f
    d_log_sigma2 = d_weights * noise * np.exp(lstm["log_sigma2"] / 2) / 2  # (1)
    return [{"theta": d_weights, "log_sigma2": d_log_sigma2, "bias": d_bias}, d_dense]


def clip(gradients: Net, most: float) -> float:
    """(5) Shorten the gradient, all arrays taken together, to the norm `most`, in place; return its norm before."""
    arrays = [array for layer in gradients for array in layer.values()]
    norm = float(np.sqrt(sum(float((array**2).sum()) for array in arrays)))
    for array in arrays:
        array *= min(1.0, most / max(norm, 1e-300))
    return norm


def loss_and_gradients(
    net: Net, x: Array, labels: Array, state: State, n_train: int, kl_weight: float, seed: int, step: int
) -> tuple[float, Net, State]:
    """(6) The loss of one batch in nats per letter, its gradient for every array, and the state behind the batch."""
    logits, state, tape = forward(net, x, state, seed, step)
    loss, d_logits = cross_entropy(logits.reshape(-1, logits.shape[2]), labels.reshape(-1))
    gradients = backward(net, tape, d_logits)
    clip(gradients, 1.0)  # the NLL's gradient only: that of the KL is bounded
    for layer, gradient in zip(net, gradients, strict=True):
        value, d_theta, d_log_sigma2 = kl_divergence(layer["theta"], layer["log_sigma2"])
        loss += kl_weight / n_train * value
        gradient["theta"] += kl_weight / n_train * d_theta
        gradient["log_sigma2"] += kl_weight / n_train * d_log_sigma2
    return loss, gradients, state


def pruned(layer: Layer) -> Layer:
    """(7) The layer with all weights that do not survive set to 0."""
    return {**layer, "theta": layer["theta"] * kept(layer)}


def make_net(units: int, seed: int = 0) -> Net:
    """An LSTM and a dense layer: theta of variance 1 / H, log_sigma2 -6; the forget gates begin open, at bias 1."""
    rng, letters = np.random.default_rng(seed), len(ALPHABET)
    thetas = [rng.normal(0, units**-0.5, shape) for shape in ((letters + units, 4 * units), (units, letters))]
    net = [{"theta": t, "log_sigma2": np.full(t.shape, -6.0), "bias": np.zeros(t.shape[1])} for t in thetas]
    net[0]["bias"][units : 2 * units] = 1
    return net


def write(net: Net, start: str, letters: int, temperature: float = 0.5, seed: int = 0) -> str:
    """Go on with a text, each letter drawn from softmax(logits / temperature); the weights have no noise."""
    (lstm, dense), rng = net, np.random.default_rng(seed)
    h, c = np.zeros((2, 1, len(dense["theta"])))
    text = start
    for position in range(len(start) + letters - 1):
        rows = np.split(lstm["theta"], [len(ALPHABET)])
        *_, c, h = cell(rows[0][encode(text[position])] + h @ rows[1] + lstm["bias"], c)
        logits = (h @ dense["theta"] + dense["bias"])[0] / temperature
        p = np.exp(logits - logits.max())
        if position >= len(start) - 1:
            text += rng.choice([*ALPHABET], p=p / p.sum())
    return text


def main(epochs: int = 300, units: int = 48, rows: int = 8, steps: int = 30, lr: float = 1e-2, seed: int = 0) -> None:
    """Learn the rhyme, and write a few words of it before and after the weights are removed."""
    codes, n = encode(TEXT), (len(TEXT) - 1) // (rows * steps) * steps  # letters in each of the B pieces
    x, labels = codes[: rows * n].reshape(rows, n), codes[1 : rows * n + 1].reshape(rows, n)
    net, step = make_net(units, seed), 0
    m, v = ([{name: np.zeros_like(array) for name, array in layer.items()} for layer in net] for _ in "mv")
    print(f"{len(TEXT)} letters, {len(ALPHABET)} of them different\nepoch  kl_weight   loss  sparsity  weights kept")
    for epoch in range(epochs):
        kl_weight = min(1.0, epoch / (epochs / 3))  # warm-up: first learn, then drop what is not needed
        rate = lr * min(1.0, 3 * (1 - epoch / epochs))
        state: State = (np.zeros((rows, units)), np.zeros((rows, units)))
        for t in range(0, n, steps):
            batch = x[:, t : t + steps], labels[:, t : t + steps], state
            loss, gradients, state = loss_and_gradients(net, *batch, x.size, kl_weight, seed, step)
            adam_step(net, gradients, (m, v), rate, step)
            step += 1
        alive, total = sum(kept(layer).sum() for layer in net), sum(layer["theta"].size for layer in net)
        if epoch % 20 == 19:
            print(f"{epoch + 1:5}  {kl_weight:9.2f}  {loss:5.2f}  {1 - alive / total:8.1%}  {alive:5} of {total}")
    for title, layers in (("all weights", net), (f"only {alive} weights", [pruned(layer) for layer in net])):
        print(f"\nWritten with {title}:\n{write(layers, 'This is the ', 150)}")


if __name__ == "__main__":
    main()
