"""`export_writer`: a recurrent network as one web page on which it writes, token by token.

A matrix is written row by row: how many weights each row has, how far apart their columns are, and the weights in steps
of 1/32767 of the largest. The page keeps the state, as `RecurrentModel` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_file, check_type
from svd_numpy.exchange.page.data import distances
from svd_numpy.exchange.page.html import MOST_BYTES, fill
from svd_numpy.files.atomic import write_atomic
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.sparse.model import compress
from svd_numpy.sparse.recurrent import RecurrentModel

_MOST = 32_767  # of an int16


def export_writer(
    model: Sequential | RecurrentModel,
    path: str | Path,
    *,
    prompt: str = "",
    title: str = "A small network that writes",
) -> Path:
    """Write a recurrent network as one web page, on which it writes text and shows which of its units fire.

    The reader gives the beginning and the temperature, and sees the likeliest next letters. The page has at most
    200,000 bytes and loads nothing from elsewhere.

    Parameters
    ----------
    model : Sequential or RecurrentModel
        Trained by `train_text`, or any other that reads and predicts tokens of one vocabulary, which it knows.
    path : path
        Ending in .html.
    prompt : str
        How the text begins; empty for the first token of the vocabulary.
    title : str

    Returns
    -------
    Path

    Raises
    ------
    SvdValueError, SvdTypeError
        For a network that does not write, or has too many weights for a page.
    """
    if not isinstance(model, Sequential | RecurrentModel):
        raise SvdTypeError(f"model: got {type(model).__name__}, expected a Sequential or a RecurrentModel")
    check_type("prompt", prompt, str)
    check_type("title", title, str)
    target = check_file("path", path, ".html")
    small = compress(model) if isinstance(model, Sequential) else model
    outputs = small.ops[-1].units if isinstance(small, RecurrentModel) else 0
    if not isinstance(small, RecurrentModel) or small.vocabulary is None or outputs != len(small.vocabulary):
        raise SvdValueError(
            f"model: got one with {outputs} outputs, expected a recurrent network that knows what its tokens stand for "
            "and has an output for each of them, as train_text makes it"
        )
    described, numbers = writer_bytes(small)
    total = None
    if isinstance(model, Sequential):
        total = sum(layer.theta.size for layer in model.layers if hasattr(layer, "theta"))
    described |= {"total": total, "prompt": prompt}
    page = fill(title, described, numbers, "writer.html", ("helpers", "bytes", "writer", "writing"))
    if len(page.encode()) > MOST_BYTES:
        raise SvdValueError(
            f"export_writer: the page would have {len(page.encode()):,} bytes with its {small.n_weights:,} weights, "
            f"expected at most {MOST_BYTES:,}; train with a larger KL weight, or fewer units"
        )
    write_atomic(target, page.encode())
    return target


def writer_bytes(small: RecurrentModel) -> tuple[dict[str, Any], bytes]:
    """Describe a compact network for JSON, and write its numbers."""
    layers, content = list[dict[str, Any]](), bytearray()
    for op in small.ops:
        entry: dict[str, Any] = {"kind": op.kind, "relu": op.relu, "units": op.units, "biases": len(op.bias)}
        for name, rows in (("inputs", op.inputs), ("recurrent", op.recurrent)):
            scale, values = rounded(rows.values)
            entry[name] = {"rows": len(rows.starts) - 1, "scale": scale}
            content += distances(np.diff(rows.starts)) + distances(_steps(rows)) + values.astype("<i2").tobytes()
        content += op.bias.astype("<f4").tobytes()
        layers.append(entry)
    described = {
        "layers": layers, "vocabulary": list(small.vocabulary or ()), "padding": small.padding,
        "weights": small.n_weights,
    }  # fmt: skip
    return described, bytes(content)


def rounded(values: Array) -> tuple[float, Array]:
    """Weights in whole numbers, and the size of a step."""
    scale = float(np.abs(values).max(initial=0)) / _MOST or 1.0
    return scale, np.rint(values / np.float64(scale)).astype(np.int64)


def _steps(rows: Any) -> Array:
    """How far each column lies behind the one before in its row; the first one behind -1."""
    steps = np.diff(rows.columns.astype(np.int64), prepend=-1)
    first = rows.starts[:-1][np.diff(rows.starts) > 0]
    steps[first] = rows.columns[first] + 1
    return np.asarray(steps)
