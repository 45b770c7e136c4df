"""Run a compact network with NumPy alone:  python net_reader.py net.npz images.npy  prints the class of each image.

From Python:  predict = load("net.npz");  outputs = predict(images)
"""

import hashlib
import io
import sys
import zipfile

import numpy as np


def need(condition, message):
    """Raise a ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def windows(x, n, at, fill):
    """Pixels (B, OH, OW, KH * KW, C) that the window of op n sees in images (B, H, W, C)."""
    (kh, kw), (sy, sx), (py, px), (dy, dx) = at("window", n).tolist()
    (h, w), c = (x.shape[1] + 2 * py, x.shape[2] + 2 * px), x.shape[3]
    need(min(kh, kw, sy, sx, dy, dx) > 0 and h * w * c <= 2**26, f"op {n} has no sensible window")
    oh, ow = (h - dy * (kh - 1) - 1) // sy + 1, (w - dx * (kw - 1) - 1) // sx + 1
    need(min(oh, ow) > 0 and oh * ow * kh * kw * c <= 2**26, f"op {n} has no sensible window")
    x = np.pad(x, ((0, 0), (py, py), (px, px), (0, 0)), constant_values=fill)
    taps = [(dy * i, dx * j) for i in range(kh) for j in range(kw)]
    return np.stack([x[:, i : i + sy * oh : sy, j : j + sx * ow : sx] for i, j in taps], axis=3)


def product(x, n, at):
    """x (..., inputs) times the matrix (inputs, outputs) of op n, built from its nonzeros, plus its bias."""
    (inputs, outputs), rows, starts, values, bias = (at(f, n) for f in ("shape", "rows", "starts", "values", "bias"))
    need(int(inputs) * int(outputs) <= 2**27, f"op {n} has {inputs} x {outputs} weights, too many")
    need(starts.shape == (outputs + 1,) and starts[0] == 0 and bias.shape == (outputs,), f"op {n} has other outputs")
    need(rows.shape == values.shape == (starts[-1],), f"op {n} has other weights than it counts")
    matrix = np.zeros((inputs, outputs), np.float32)
    matrix[rows, np.repeat(np.arange(outputs), np.diff(starts))] = values
    return x @ matrix + bias


def load(path):
    """Read a network; return the function that maps images, uint8 or float, to outputs (B, O)."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        need(hashlib.sha256(content[:-64]).hexdigest().encode() == content[-64:], "its checksum differs")
        packed = zipfile.ZipFile(io.BytesIO(content)).infolist()
        need(sum(entry.file_size for entry in packed) <= 2**30, "its arrays take more than 2**30 bytes")
        arrays = dict(np.load(io.BytesIO(content), allow_pickle=False))
        kinds = arrays.pop("kinds").tolist()
        for name, array in arrays.items():
            whole = array.dtype.kind in "bi" and (array >= 0).all()
            need(whole or (array.dtype == np.float32 and np.isfinite(array).all()), f"{name} has impossible numbers")
        need(arrays["0.in_size"] <= 2**26, "its images are too large")
        with np.errstate(all="ignore"):
            run(arrays, kinds, np.zeros((1, int(arrays["0.in_size"])), np.float32))
    except Exception as error:
        raise ValueError(f"{path} is damaged, or not a network that export_numpy wrote: {error!r}") from error
    return lambda images: run(arrays, kinds, np.asarray(images))


def run(arrays, kinds, x):
    """Outputs (B, O) of images."""

    def at(field, n):
        return arrays[f"{n}.{field}"]

    x = x.reshape(len(x), -1).astype(np.float32) * np.float32(1 / 255 if x.dtype == np.uint8 else 1)
    need(x.shape[1] == at("in_size", 0), f"got images of {x.shape[1]} numbers, expected {at('in_size', 0)}")
    for n, kind in enumerate(kinds):
        rows = x.reshape(len(x), int(np.prod(x.shape[1:])))
        if kind == "take":
            need(at("mean", n).shape == at("index", n).shape, f"op {n} has another mean")
            x = (rows[:, at("index", n)] - at("mean", n)).reshape(len(x), *at("out_shape", n))
        elif kind == "dense":
            x = product(rows[:, at("inputs", n)], n, at)
        elif kind == "conv":
            seen = windows(x, n, at, 0.0)
            x = product(seen.reshape(*seen.shape[:3], -1), n, at)
        elif kind == "pad":  # index 0 stands for a 0, the others for the numbers of the image
            x = np.pad(rows, ((0, 0), (1, 0)))[:, at("index", n)].reshape(len(x), *at("out_shape", n))
        elif kind == "scale":
            x = x.reshape(len(x), *at("out_shape", n))
            need(at("scale", n).shape == at("shift", n).shape == x.shape[-1:], f"op {n} has other channels")
            x = x * at("scale", n) + at("shift", n)
        else:
            need(kind in ("max", "avg", "avg_inside"), f"op {n} is of the unknown kind {kind!r}")
            inside = windows(np.ones_like(x[:1]), n, at, 0.0).mean(axis=3) if kind == "avg_inside" else 1
            seen = windows(x, n, at, -np.inf if kind == "max" else 0.0)
            x = seen.max(axis=3) if kind == "max" else seen.mean(axis=3) / inside
        x = np.maximum(x, 0) if at("relu", n) else x
    return x.reshape(len(x), -1)


if __name__ == "__main__":
    print(*load(sys.argv[1])(np.load(sys.argv[2], allow_pickle=False)).argmax(axis=1), sep="\n")
