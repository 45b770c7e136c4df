"""Run a compact network with NumPy alone:  python net_reader.py net.npz images.npy  prints the class of each image.

From Python:  predict = load("net.npz");  outputs = predict(images)
"""

import sys

import numpy as np


def windows(x, n, at, fill):
    """Pixels (B, OH, OW, KH * KW, C) that the window of op n sees in images (B, H, W, C)."""
    (kh, kw), (sy, sx), (py, px), (dy, dx) = at("window", n)
    x = np.pad(x, ((0, 0), (py, py), (px, px), (0, 0)), constant_values=fill)
    oh, ow = (x.shape[1] - dy * (kh - 1) - 1) // sy + 1, (x.shape[2] - dx * (kw - 1) - 1) // sx + 1
    taps = [(dy * i, dx * j) for i in range(kh) for j in range(kw)]
    return np.stack([x[:, i : i + sy * oh : sy, j : j + sx * ow : sx] for i, j in taps], axis=3)


def weights(n, at):
    """Matrix (inputs, outputs) of op n, built from its nonzeros."""
    matrix = np.zeros(at("shape", n), np.float32)
    matrix[at("rows", n), np.repeat(np.arange(matrix.shape[1]), np.diff(at("starts", n)))] = at("values", n)
    return matrix


def load(path):
    """Read a network; return the function that maps images, uint8 or float, to outputs (B, O)."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)

    def at(field, n):
        return arrays[f"{n}.{field}"]

    def predict(images):
        x = np.asarray(images)
        x = x.reshape(len(x), -1).astype(np.float32) * np.float32(1 / 255 if x.dtype == np.uint8 else 1)
        for n, kind in enumerate(arrays["kinds"]):
            rows = x.reshape(len(x), int(np.prod(x.shape[1:])))
            if kind == "take":
                x = (rows[:, at("index", n)] - at("mean", n)).reshape(len(x), *at("out_shape", n))
            elif kind == "dense":
                x = rows[:, at("inputs", n)] @ weights(n, at) + at("bias", n)
            elif kind == "conv":
                seen = windows(x, n, at, 0.0)
                x = seen.reshape(*seen.shape[:3], -1) @ weights(n, at) + at("bias", n)
            elif kind == "scale":
                x = x.reshape(len(x), *at("out_shape", n)) * at("scale", n) + at("shift", n)
            else:
                x = windows(x, n, at, -np.inf).max(axis=3) if kind == "max" else windows(x, n, at, 0.0).mean(axis=3)
            x = np.maximum(x, 0) if at("relu", n) else x
        return x.reshape(len(x), -1)

    return predict


if __name__ == "__main__":
    print(*load(sys.argv[1])(np.load(sys.argv[2], allow_pickle=False)).argmax(axis=1), sep="\n")
