"""What is left of a pruned recurrent network, and a small stateful runtime of it: `RecurrentModel`, made by `compress`.

A unit is alive if the layer behind reads it, or if a living unit of its own layer does at the next step. All others are
dead, and their weights useless, which may leave units of the layer before unread. A gate with no weight left is a
constant. A word is dead when its row is empty (Chirkova, Lobacheva, Vetrov 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, as_array, as_path, check_file, check_threshold, check_type
from svd_numpy.files.npz import read_npz, write_npz
from svd_numpy.files.safe_arrays import reading, require
from svd_numpy.kernels import resolve_backend
from svd_numpy.kernels.backend import Array
from svd_numpy.network.fold import fold_gates
from svd_numpy.network.layers import LSTM, Dense, Dropout, Embedding, GaussianDropout, ReLU
from svd_numpy.network.layers.recurrent import GRU, also_read
from svd_numpy.network.model import Sequential
from svd_numpy.sparse.recurrent_steps import FastSteps, PlainSteps

_CELLS = {"lstm": 4, "gru": 3}  # gates of a unit
MOST_PLACES = 2**26  # of a matrix in a file, zeros included


@dataclass
class _Part:
    """The weights of a layer that survive, as one writes them down: zeros are dead."""

    kind: str
    name: str
    theta: Array  # (I, O), without the recurrent rows
    recurrent: Array  # (H, gates H); (0, 0) for other layers
    bias: Array
    relu: bool = False


def is_recurrent(model: Sequential) -> bool:
    """Whether `compress` makes a `RecurrentModel` of this network."""
    return any(layer.needs_recurrence for layer in model.layers)


def _parts(model: Sequential, threshold: float) -> list[_Part]:
    """Read the surviving weights of a network, layer by layer."""
    parts = list[_Part]()
    for layer in fold_gates(model).layers:
        if isinstance(layer, LSTM | GRU):
            theta = layer.pruned_theta(threshold).copy()
            inputs, recurrent = theta[: layer.in_features], theta[layer.in_features :]
            parts.append(_Part(layer.kind, layer.name, inputs, recurrent, layer.bias.copy()))
        elif isinstance(layer, Embedding):
            theta = layer.pruned_theta(threshold).copy()
            parts.append(_Part("embedding", layer.name, theta, np.zeros((0, 0)), np.zeros(0)))
        elif isinstance(layer, Dense):
            theta = layer.pruned_theta(threshold).copy()
            parts.append(_Part("dense", layer.name, theta, np.zeros((0, 0)), layer.bias.copy()))
        elif isinstance(layer, ReLU) and parts and parts[-1].kind == "dense":
            parts[-1].relu = True
        elif not isinstance(layer, Dropout | GaussianDropout):
            raise SvdTypeError(
                f"compress: layer {layer.name!r} is a {type(layer).__name__}, expected Embedding, LSTM, GRU, Dense, "
                "with ReLU only behind Dense, and gates that can be folded, in a recurrent network"
            )
    return parts


def _read(part: _Part) -> Array:
    """Which of its inputs a layer reads."""
    return np.asarray(part.theta.any(axis=1))


def _columns(units: Array, part: _Part) -> Array:
    """Columns of a recurrent layer that belong to these units."""
    size = len(part.recurrent)
    return (np.arange(_CELLS[part.kind])[:, None] * size + units).ravel()


def _live_units(part: _Part, read: Array) -> Array:
    """Which units of a recurrent layer are alive, given those that the layer behind reads."""
    return also_read(part.recurrent != 0, read)


def _strike_dead(parts: list[_Part]) -> None:
    """Set the weights of units that nobody reads to 0, in place, until nothing changes; the last layer's units stay."""
    while True:
        before = sum(int(np.count_nonzero(part.theta)) + int(np.count_nonzero(part.recurrent)) for part in parts)
        for part, behind in pairwise(parts):
            read = _read(behind)
            if part.kind in _CELLS:
                dead = np.flatnonzero(~_live_units(part, read))
                part.theta[:, _columns(dead, part)] = 0
                part.recurrent[:, _columns(dead, part)] = 0
                part.recurrent[dead] = 0
            else:
                part.theta[:, ~read] = 0
            if part.kind == "embedding":  # a number that is 0 for every token adds nothing
                behind.theta[~part.theta.any(axis=0)] = 0
        after = sum(int(np.count_nonzero(part.theta)) + int(np.count_nonzero(part.recurrent)) for part in parts)
        if after == before:
            return


def _left(model: Sequential, threshold: float | None = None) -> list[_Part]:
    """The weights that survive and have an effect; by default at the model's threshold."""
    parts = _parts(model, model.threshold if threshold is None else threshold)
    _strike_dead(parts)
    return parts


def live_tokens(model: Sequential) -> list[int]:
    """Tokens of which a weight is left, those with the largest weights first."""
    first = _left(model)[0].theta
    size = np.square(first).sum(axis=1)
    return [int(token) for token in np.argsort(-size, kind="stable") if size[token] > 0]


def count_live(model: Sequential) -> dict[str, tuple[int, int]]:
    """What is left, as {what: (live, all)}: tokens; features; units, and gates with a weight, of recurrent layers."""
    found, parts = dict[str, tuple[int, int]](), _left(model)
    if model.layers[0].takes_tokens is not None:
        rows = _read(parts[0])
        found["tokens"] = int(rows.sum()), len(rows)
    for part, behind in pairwise(parts):
        read = _read(behind)
        if part.kind == "embedding":
            found[f"features of {part.name}"] = int(read.sum()), len(read)
        elif part.kind in _CELLS:
            units = _live_units(part, read)
            gates = np.asarray(part.theta.any(axis=0) | part.recurrent.any(axis=0))
            found[f"units of {part.name}"] = int(units.sum()), len(units)
            found[f"gates of {part.name}"] = int(gates.sum()), len(gates)
    return found


def count_weights(model: Sequential) -> dict[str, tuple[int, int]]:
    """Weights that `compress` keeps, as {matrix: (kept, all)}; what a dead unit reads or feeds is not kept.

    A recurrent layer has two matrices, "NAME, inputs" and "NAME, recurrence".
    """
    found = dict[str, tuple[int, int]]()
    for part in _left(model):
        matrices = {part.name: part.theta}
        if part.kind in _CELLS:
            matrices = {f"{part.name}, inputs": part.theta, f"{part.name}, recurrence": part.recurrent}
        found |= {name: (int(np.count_nonzero(matrix)), matrix.size) for name, matrix in matrices.items()}
    return found


def gates_left(model: Sequential) -> dict[str, tuple[Array, Array, Array]]:
    """Say for every LSTM and GRU which gates depend on something: {layer: (weights, values, live)}.

    Returns
    -------
    weights : int array (gates, units)
        Weights left in each gate; with none it is a constant.
    values : array (gates, units)
        What it is then. NaN for n of a GRU, in which r still multiplies a bias.
    live : bool array (units,)
        Which units are alive.
    """
    found, parts = dict[str, tuple[Array, Array, Array]](), _left(model)
    for part, behind in zip(parts, [*parts[1:], None], strict=True):
        if part.kind in _CELLS:
            gates, units = _CELLS[part.kind], len(part.recurrent)
            weights = np.count_nonzero(part.theta, axis=0) + np.count_nonzero(part.recurrent, axis=0)
            a = part.bias[: gates * units].astype(np.float64).reshape(gates, units)
            values = 0.5 + 0.5 * np.tanh(0.5 * a)
            values[2] = np.tanh(a[2]) if part.kind == "lstm" else np.nan
            read = np.ones(units, bool) if behind is None else _read(behind)
            found[part.name] = weights.reshape(gates, units), values, _live_units(part, read)
    return found


@dataclass(frozen=True)
class _Rows:
    """A sparse matrix (I, O) by rows: row i has values[starts[i] : starts[i + 1]] in columns `columns`."""

    starts: Array
    columns: Array
    values: Array

    def matrix(self, width: int) -> Array:
        """The matrix (I, width) again."""
        found = np.zeros((len(self.starts) - 1, width), np.float32)
        found[np.repeat(np.arange(len(found)), np.diff(self.starts)), self.columns] = self.values
        return found

    @staticmethod
    def of(matrix: Array) -> _Rows:
        """List the weights of a matrix that are not 0."""
        rows, columns = np.nonzero(matrix)
        starts = np.searchsorted(rows, np.arange(len(matrix) + 1))
        return _Rows(starts.astype(np.int32), columns.astype(np.int32), matrix[rows, columns].astype(np.float32))


@dataclass
class _Op:
    """One layer of the runtime, with live units only."""

    kind: str
    inputs: _Rows
    recurrent: _Rows
    bias: Array
    relu: bool

    @property
    def units(self) -> int:
        """Outputs."""
        return len(self.recurrent.starts) - 1 if self.kind in _CELLS else len(self.bias)

    def arrays(self) -> dict[str, Array]:
        """What a file holds of it."""
        rows = {"inputs": self.inputs, "recurrent": self.recurrent}
        found = {f"{name}_{field}": getattr(of, field) for name, of in rows.items() for field in of.__annotations__}
        return {**found, "bias": self.bias}


def _op(kind: str, relu: bool, arrays: Mapping[str, Array]) -> _Op:
    """Make a layer of the arrays in a file; raise if they cannot be one."""
    require(kind in (*_CELLS, "dense", "embedding"), f"layer of kind {kind!r}")
    bias, rows = arrays["bias"], list[_Rows]()
    columns = len(bias) * 3 // 4 if kind == "gru" else len(bias)
    for name in ("inputs", "recurrent"):
        own = _Rows(*(arrays[f"{name}_{field}"] for field in ("starts", "columns", "values")))
        types = [str(array.dtype) for array in (own.starts, own.columns, own.values, bias)]
        require(types == ["int32", "int32", "float32", "float32"], f"{name}: arrays of {types}")
        require(own.starts.size > 0 and own.starts[0] == 0 and own.starts[-1] == len(own.values), f"{name}: starts")
        require(bool((np.diff(own.starts) >= 0).all()) and own.columns.shape == own.values.shape, f"{name}: starts")
        require(bool(((own.columns >= 0) & (own.columns < columns)).all()), f"{name}: columns out of range")
        require(bool(np.isfinite(own.values).all()), f"{name}: not finite")
        require(
            (len(own.starts) - 1) * columns <= MOST_PLACES, f"{name}: a matrix of {len(own.starts) - 1} x {columns}"
        )
        rows.append(own)
    op = _Op(kind, rows[0], rows[1], bias, relu)
    require(kind not in _CELLS or columns == _CELLS[kind] * op.units, "the bias has another length")
    return op


class RecurrentModel:
    """A compact recurrent network that reads one token (or row) at a time and keeps its state.

    Attributes
    ----------
    ops : list
        The layers, with what is left of them.
    vocabulary : tuple of str, or None
        What the tokens stand for.
    n_weights : int
        Weights that are stored.
    """

    def __init__(
        self, ops: Sequence[_Op], vocabulary: tuple[str, ...] | None, padding: int | None, backend: str = "auto"
    ) -> None:
        self.ops, self.vocabulary, self.padding = list(ops), vocabulary, padding
        self.backend = resolve_backend(backend)
        self._step = FastSteps(self.ops) if self.backend == "numba" else PlainSteps(self.ops)
        self.n_weights = sum(len(op.inputs.values) + len(op.recurrent.values) for op in self.ops)
        self.n_tokens = len(self.ops[0].inputs.starts) - 1
        self.reset()

    def reset(self) -> None:
        """Go back to the state in which a sequence begins."""
        self._step.reset()

    def step(self, token: int) -> Array:
        """Read one token; return the outputs (O,), such as logits of the next one. The state stays for the next call.

        A padding token changes nothing; the outputs are then those of the step before.
        """
        if not 0 <= token < self.n_tokens:
            raise SvdValueError(f"token: got {token}, expected 0..{self.n_tokens - 1}")
        return self._step(None if token == self.padding else int(token))

    def predict(self, x: Any) -> Array:
        """Outputs of every step of tokens x (B, T), array (B, T, O), each row from a fresh state."""
        rows = as_array("x", x)
        if rows.ndim != 2 or rows.dtype.kind not in "iu":
            raise SvdValueError(f"x: got shape {rows.shape} of {rows.dtype}, expected tokens (B, T)")
        found = []
        for row in rows:
            self.reset()
            found.append([self.step(token) for token in row.tolist()])
        self.reset()
        return np.array(found)

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto") -> RecurrentModel:
        """Read a network that `save` wrote; a damaged file, or one of another kind, raises `CheckpointError`."""
        file = as_path("path", path)
        arrays = read_npz(file, ("vocabulary", "padding"))
        with reading(file):
            ops = dict[tuple[int, str, bool], dict[str, Array]]()
            for name, array in arrays.items():
                number, *others = name.split("/")
                if others:
                    kind, relu, own = others
                    ops.setdefault((int(number), kind, relu == "1"), {})[own] = array
            made = [_op(kind, relu, ops[number, kind, relu]) for number, kind, relu in sorted(ops)]
            require(bool(made), "it has no layers")
            for op, behind in pairwise(made):
                require(op.units == len(behind.inputs.starts) - 1, "its layers do not fit each other")
            names = tuple(str(name) for name in arrays["vocabulary"])
            padding = int(arrays["padding"])
        return cls(made, names or None, None if padding < 0 else padding, backend)

    def sizes(self) -> dict[str, int]:
        """Count weights and bytes: {"weights", "bytes"}, the latter of values, column numbers, row starts, biases."""
        arrays = [array for op in self.ops for array in op.arrays().values()]
        return {"weights": self.n_weights, "bytes": sum(array.nbytes for array in arrays)}

    def save(self, path: str | Path) -> Path:
        """Write the network to one .npz file of plain arrays."""
        file = check_file("path", path, ".npz")
        arrays = {f"{number}/{op.kind}/{int(op.relu)}/{name}": array for number, op in enumerate(self.ops)
                  for name, array in op.arrays().items()}  # fmt: skip
        names = np.array([] if self.vocabulary is None else self.vocabulary, dtype=np.str_)
        padding = np.array(-1 if self.padding is None else self.padding)
        write_npz(file, {**arrays, "vocabulary": names, "padding": padding})
        return file


def compress_recurrent(model: Sequential, threshold: float | None = None, backend: str = "auto") -> RecurrentModel:
    """Make the compact form of a recurrent network that reads tokens; arguments as in `compress`."""
    check_type("model", model, Sequential)
    first = model.layers[0]
    if first.takes_tokens is None:
        raise SvdValueError(
            f"compress: the first layer {first.name!r} reads numbers, expected one that reads tokens, such as Embedding"
        )
    threshold = model.threshold if threshold is None else check_threshold("threshold", threshold)
    parts, ops = _left(model, threshold), list[_Op]()
    kept: Array = np.arange(len(parts[0].theta))  # inputs that are left: all tokens, so that their numbers stay
    for part, behind in zip(parts, [*parts[1:], None], strict=True):
        last = np.ones(len(part.recurrent) or part.theta.shape[1], bool)  # of the last layer, all outputs stay
        read = last if behind is None else _read(behind)
        recurrent, relu = np.zeros((0, 0)), part.relu
        if part.kind in _CELLS:
            size = len(part.recurrent)
            units = np.flatnonzero(_live_units(part, read))
            columns = _columns(units, part)
            inside = units + 3 * size if part.kind == "gru" else units[:0]
            bias = part.bias[np.append(columns, inside)]
            recurrent = part.recurrent[np.ix_(units, columns)]
        else:
            units = columns = np.flatnonzero(read)
            bias = part.bias[columns] if part.bias.size else np.zeros(len(columns))
        theta = part.theta[np.ix_(kept, columns)]
        ops.append(_Op(part.kind, _Rows.of(theta), _Rows.of(recurrent), bias.astype(np.float32), relu))
        kept = units
    padding = getattr(getattr(first, "tokens", None), "padding", None)
    return RecurrentModel(ops, first.vocabulary, padding, backend)
