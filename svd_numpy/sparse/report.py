"""A compact network as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from svd_numpy.sparse.ops import ConvOp, DenseOp, Op, PadOp, PoolOp, TakeOp

_HEAD = ("layer", "form", "before", "after", "weights kept", "density")


def table(ops: Sequence[Op]) -> str:
    """One row per op: its form, its shape before and after, the weights it keeps."""
    rows, total, kept = [_HEAD], 0, 0
    for op in ops:
        if isinstance(op, DenseOp | ConvOp):
            whole, left = math.prod(op.before), op.weights.kept
            after = (
                op.weights.shape if isinstance(op, DenseOp) else (*op.window.kernel, op.window.channels, len(op.bias))
            )
            form = f"{op.weights.form} {'dense' if isinstance(op, DenseOp) else 'convolution'}"
            form = {"dense dense": "smaller dense", "sparse dense": "sparse"}.get(form, form)
            counted = f"{left:,} of {whole:,}", f"{left / max(1, op.weights.shape[0] * op.weights.shape[1]):.1%}"
            rows.append((op.name, form, _size(op.before), _size(after), *counted))
            total, kept = total + whole, kept + left
        elif isinstance(op, TakeOp):
            rows.append((op.name, "inputs read", _size(op.in_shape), _size(op.out_shape), "", ""))
        else:
            form = f"{op.kind} pooling" if isinstance(op, PoolOp) else "scale and shift"
            form = f"padding, {op.padding.mode}" if isinstance(op, PadOp) else form
            rows.append((op.name, form, "", _size(op.out_shape), "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if n < 2 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    end = f"{kept:,} of {total:,} weights: compression {total / max(1, kept):.1f}"
    return "\n".join([*(line.rstrip() for line in lines), end])


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
