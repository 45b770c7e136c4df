"""What the tests of docs/play.html share: its data, read as the page reads them, and the sums that it should get."""

from __future__ import annotations

import base64
import functools
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy import micro

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import make_play

PAGE = make_play.PAGE
OPTIONS = {"beta": 1.0, "warmUp": 0, "lr": 5e-3, "epochs": 60, "batch": 50, "seed": 7}


@functools.cache
def page_data() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The page's description and arrays, the differences between epochs summed up again."""
    data = make_play.data_of(PAGE.read_text(encoding="utf-8"))
    described: dict[str, Any] = json.loads(data["DESCRIPTION"])
    content, at, found = zlib.decompress(base64.b64decode(data["NUMBERS"])), 0, dict[str, np.ndarray]()
    for name, kind, shape in described["arrays"]:
        found[name] = np.frombuffer(content, kind, int(np.prod(shape)), at).reshape(shape)
        at += found[name].nbytes
    assert at == len(content)
    for name in ("logAlpha", "logSigma2", "theta"):
        found[name] = np.cumsum(found[name], axis=0, dtype=np.int8)
    return described, found


def golden(x: np.ndarray, labels: np.ndarray, steps: int, **options: Any) -> tuple[list[float], micro.Net]:
    """Losses of the first steps, and the network after them, as NumPy's `micro` computes them."""
    o, net = OPTIONS | options, micro.make_net(*make_play.SIZES)
    for number, layer in enumerate(net):
        n_in, n_out = layer["theta"].shape
        layer["theta"] = micro.normals(o["seed"], 1003, number, n_in, n_out) * np.sqrt(2 / n_in)
    moments, losses = (micro.zeros_like(net), micro.zeros_like(net)), []
    order = np.argsort(micro.normals(o["seed"], 1001, 0, 1, len(x))[0], kind="stable")
    for step in range(steps):
        rows = order[step * o["batch"] :][: o["batch"]]
        kl_weight = o["beta"] if not o["warmUp"] else 0.0
        loss, gradients = micro.loss_and_gradients(net, x[rows], labels[rows], len(x), kl_weight, o["seed"], step)
        micro.adam_step(net, gradients, moments, o["lr"], step)
        losses.append(loss)
    return losses, net


def network_at(arrays: dict[str, np.ndarray], described: dict[str, Any], epoch: int) -> list[dict[str, np.ndarray]]:
    """The rounded network of an epoch (from 0): theta, bias, and eighths of log alpha."""
    at = unit = 0
    layers = []
    for number, (n_in, n_out) in enumerate(zip(described["sizes"], described["sizes"][1:], strict=False)):
        part = slice(at, at + n_in * n_out)
        layer = {name: arrays[name][epoch, part].reshape(n_in, n_out) for name in ("theta", "logAlpha", "logSigma2")}
        layer["theta"] = layer["theta"] * arrays["scale"][epoch, number].astype(float)
        layers.append(layer | {"bias": arrays["bias"][epoch, unit : unit + n_out].astype(float)})
        at, unit = part.stop, unit + n_out
    return layers


def error_of(layers: list[dict[str, np.ndarray]], keep: list[np.ndarray], arrays: dict[str, np.ndarray]) -> float:
    """Error on the test digits through the weights to keep."""
    x = arrays["xTest"] / 16
    for number, (layer, mask) in enumerate(zip(layers, keep, strict=True)):
        x = (np.maximum(x, 0) if number else x) @ (layer["theta"] * mask) + layer["bias"]
    return float((x.argmax(axis=1) != arrays["testLabels"]).mean())
