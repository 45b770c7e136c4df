"""Compact networks as files: one checksummed safetensors file, fully checked when it is read back."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, check_file
from svd_numpy.files.atomic import write_atomic
from svd_numpy.files.npz import npz_bytes
from svd_numpy.files.safe_arrays import CheckpointError, load_model, save_model, sha256
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.padding import Padding, sources
from svd_numpy.kernels.window import Window
from svd_numpy.network.objective import Likelihood, make_likelihood
from svd_numpy.sparse.op_checks import check_ops
from svd_numpy.sparse.ops import ConvOp, DenseOp, Op, PadOp, PoolOp, ScaleOp, TakeOp, Weights

_KIND = "compact network"
_TYPES: dict[str, Any] = {op.__name__: op for op in (TakeOp, DenseOp, ConvOp, PoolOp, ScaleOp, PadOp)}


def save_ops(path: str | Path, ops: Sequence[Op], likelihood: Likelihood) -> None:
    """Write a network atomically to a `.safetensors` file, its arrays named `<number of the op>.<field>`.

    What `load_ops` would refuse is refused before anything is written.
    """
    check_ops(ops)
    described = [_describe(op) for op in ops]
    arrays = {f"{number}.{name}": array for number, (own, _) in enumerate(described) for name, array in own.items()}
    state = {
        "kind": _KIND,
        "likelihood": {"name": likelihood.name, **asdict(likelihood)},
        "ops": [rest for _, rest in described],
    }
    save_model(path, arrays, state)


def load_ops(path: str | Path) -> tuple[list[Op], Likelihood]:
    """Read what `save_ops` wrote.

    Raises
    ------
    CheckpointError
        When the file is missing or damaged, or does not hold a valid compact network.
    """
    arrays, state = load_model(path)
    try:
        if state.get("kind") != _KIND or set(state) != {"kind", "likelihood", "ops"}:
            raise SvdValueError("it is not a compact network; a trained one is read by Sequential.load")
        ops = [_restore(entry, _own(arrays, number)) for number, entry in enumerate(state["ops"])]
        if len(arrays) != sum(len(_own(arrays, number)) for number in range(len(ops))):
            raise SvdValueError("it holds arrays that belong to no op")
        check_ops(ops)
        return ops, make_likelihood(**state["likelihood"])
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no network that SparseModel.save wrote: {error}") from error


def export_numpy(path: str | Path, ops: Sequence[Op]) -> Path:
    """Write a network as `.npz` and, beside it, a reader that needs only NumPy; return the reader's path.

    The arrays are those of the ops, named `<number>.<field>`; all weights are in the sparse form. The comment at the
    end of the zip file is the SHA-256 of everything before it, in 64 hex digits.

    Raises
    ------
    ValueError
        For a file name that does not end in .npz.
    OSError
        When the disk fails; each file is then either the old one or the new one, whole.
    """
    path = check_file("path", path, ".npz")
    arrays: dict[str, Array] = {"kinds": np.array([_plain_kind(op) for op in ops])}
    for number, op in enumerate(ops):
        own, rest = _describe(op if not isinstance(op, DenseOp | ConvOp) else _sparse(op))
        own |= {name: np.array(rest[name]) for name in ("shape", "out_shape") if name in rest}
        own["relu"] = np.array(rest.get("relu", False))
        if isinstance(op, TakeOp):
            own["in_size"] = np.array(math.prod(op.in_shape))
            own["mean"] = np.zeros(len(op.index), np.float32) if op.mean is None else op.mean
        if isinstance(op, PadOp):
            numbers = sources(op.padding)[:, None] * op.channels + np.arange(op.channels)
            own |= {"index": np.maximum(numbers, -1).ravel() + 1, "out_shape": np.array(op.out_shape)}
        if "window" in rest:
            own["window"] = np.array(rest["window"][3:])  # kernel, stride, padding, dilation
        arrays |= {f"{number}.{name}": array for name, array in own.items()}
    packed = io.BytesIO(npz_bytes(arrays))
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = bytes(64)
    content = packed.getvalue()[:-64]
    source = Path(__file__).with_name("net_reader.py")
    reader = path.with_name(source.name)
    write_atomic(reader, source.read_bytes())
    write_atomic(path, content + sha256(content).encode())
    return reader


def _plain_kind(op: Op) -> str:
    return op.kind if isinstance(op, PoolOp) else type(op).__name__.removesuffix("Op").lower()


def _sparse(op: DenseOp | ConvOp) -> Op:
    return replace(op, weights=Weights.from_matrix(op.weights.matrix(), "sparse"))


def _describe(op: Op) -> tuple[dict[str, Array], dict[str, Any]]:
    """Split an op into arrays and JSON."""
    arrays, rest = dict[str, Array](), dict[str, Any]({"type": type(op).__name__})
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, Weights):
            rest["shape"] = list(value.shape)
            own = {"values": value.values, "rows": value.rows, "starts": value.starts}
            arrays |= {name: array for name, array in own.items() if array is not None}
        elif isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif isinstance(value, Window | Padding):
            rest[field.name] = [list(part) if isinstance(part, tuple) else part for part in value]
        else:
            rest[field.name] = list(value) if isinstance(value, tuple) else value
    return arrays, rest


def _own(arrays: Mapping[str, Array], number: int) -> dict[str, Array]:
    """The arrays of one op, by field."""
    prefix = f"{number}."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _restore(entry: Mapping[str, Any], arrays: Mapping[str, Array]) -> Op:
    """Make an op from its parts, unchecked; `check_ops` checks it."""
    rest = {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()}
    given: dict[str, Any] = {**arrays, **rest}
    if len(given) < len(arrays) + len(rest):
        raise SvdValueError("an op has a field twice")
    kind = _TYPES[given.pop("type")]
    if "window" in given:
        parts: list[Any] = [tuple(part) if isinstance(part, list) else part for part in given["window"]]
        given["window"] = Window._make(parts)
    if "padding" in given:
        given["padding"] = Padding._make(tuple(part) if isinstance(part, list) else part for part in given["padding"])
    if "shape" in given:
        names = ("values", "rows", "starts")
        given["weights"] = Weights(given.pop("shape"), *(given.pop(name, None) for name in names))
    return kind(**given)
