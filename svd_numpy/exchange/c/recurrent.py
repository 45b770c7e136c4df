"""A compact recurrent network as C: a function that reads one token and keeps the state, in floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.exchange.c.code import template
from svd_numpy.exchange.c.tables import cells, float_cell, table
from svd_numpy.kernels.backend import Array
from svd_numpy.sparse.recurrent import RecurrentModel

_STATES, _GATES = {"lstm": 2, "gru": 1}, {"lstm": 4, "gru": 3}
_LONGEST = 200  # tokens of the example in main.c
_WIDEST = 2**16 - 1

_ADD = """
static void add(const uint32_t *starts, const uint16_t *columns, const float *values, unsigned rows,
                const float *x, float *total)
{
    for (unsigned i = 0; i < rows; i++) {
        add_row(starts, columns, values, i, x[i], total);
    }
}
"""
_SIGMOID = """
static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}
"""
_LSTM = """
/* pre-activations a of the gates i, f, g, o -> the next h and c */
static void lstm(const float *a, float *h, float *c, unsigned units)
{
    for (unsigned u = 0; u < units; u++) {
        c[u] = sigmoid(a[units + u]) * c[u] + sigmoid(a[u]) * tanhf(a[2 * units + u]);
        h[u] = sigmoid(a[3 * units + u]) * tanhf(c[u]);
    }
}
"""
_GRU = """
/* pre-activations of r, z, n from the inputs (p) and from h (q), and the bias inside n -> the next h */
static void gru(const float *p, const float *q, const float *inner, float *h, unsigned units)
{
    for (unsigned u = 0; u < units; u++) {
        const float r = sigmoid(p[u] + q[u]);
        const float z = sigmoid(p[units + u] + q[units + u]);
        const float n = tanhf(p[2 * units + u] + r * (q[2 * units + u] + inner[u]));
        h[u] = n + z * (h[u] - n);
    }
}
"""


def recurrent_files(name: str, small: RecurrentModel, tokens: Any) -> dict[str, str]:
    """Texts of the files that `export_c` writes for a recurrent network.

    Parameters
    ----------
    name : str
        What files and functions are called.
    small : RecurrentModel
    tokens : array (T,) or (B, T)
        What main.c reads: the first row, at most 200 tokens.

    Raises
    ------
    SvdValueError
        For tokens that the network does not know, or a layer of more than 65,535 columns.
    """
    widest = max(len(op.bias) for op in small.ops)
    if widest > _WIDEST:
        raise SvdValueError(f"export_c: a layer has {widest:,} columns, expected at most {_WIDEST:,}")
    row = np.atleast_2d(np.asarray(tokens))[0][:_LONGEST]
    if row.dtype.kind not in "iu" or not row.size or row.min() < 0 or row.max() >= small.n_tokens:
        raise SvdValueError(f"calibration: got {row[:5]}, expected tokens from 0 to {small.n_tokens - 1}")
    upper, tables, layers = name.upper(), list[str](), list[str]()
    source, state, used = "", 0, {_ADD} if len(small.ops) > 1 else set[str]()
    for number, op in enumerate(small.ops):
        units, at = op.units, f"state + {state}"
        width = _GATES.get(op.kind, 1) * units
        listed = {"inputs": op.inputs, "recurrent": op.recurrent} if op.kind in _GATES else {"inputs": op.inputs}
        for what, of in listed.items():
            tables += [
                table("uint32_t", f"{what}{number}_starts", cells(of.starts, False)),
                table("uint16_t", f"{what}{number}_columns", cells(of.columns, False)),
                table("float", f"{what}{number}_values", cells(of.values, True)),
            ]
        tables.append(table("float", f"bias{number}", cells(op.bias, True)))
        target = "work" if op.kind in _GATES else at
        lines = [_loop("i", width, f"({target})[i] = bias{number}[i];"), _product("inputs", number, source, op, target)]
        if op.kind == "lstm":
            lines += [_product("recurrent", number, at, op, "work"), f"lstm(work, {at}, {at} + {units}, {units});"]
            used |= {_ADD, _SIGMOID, _LSTM}
        elif op.kind == "gru":
            q = f"work + {width}"
            lines += [_loop("i", width, f"({q})[i] = 0.0f;"), _product("recurrent", number, at, op, q)]
            lines.append(f"gru(work, {q}, bias{number} + {width}, {at}, {units});")
            used |= {_ADD, _SIGMOID, _GRU}
        elif op.relu:
            lines.append(_loop("i", units, f"({at})[i] = ({at})[i] > 0.0f ? ({at})[i] : 0.0f;"))
        layers += [f"        /* {op.kind}: {units} units */", *(f"        {line}" for line in lines if line)]
        source, state = at, state + _STATES.get(op.kind, 1) * units
    most = max([6 * op.units for op in small.ops if op.kind in _GATES], default=0)
    code = template(
        "recurrent.c", TABLES="\n\n".join(tables), LAYERS="\n".join(layers), STATE=max(state, 1),
        WORK=f"static float work[{most}];\n" if most else "", OUTPUT=source.rpartition(" ")[2],
        FUNCTIONS="".join(part for part in (_ADD, _SIGMOID, _LSTM, _GRU) if part in used),
        PADDING="" if small.padding is None else f" && token != {small.padding}", NAME=name, UPPER=upper,
    )  # fmt: skip
    return {
        "README.md": _readme(name, small),
        "Makefile": template("Makefile", NAME=name, LIBRARIES=" -lm"),
        "main.c": _main(name, small, row),
        f"{name}.h": _header(name, small.n_tokens, small.ops[-1].units),
        f"{name}.c": code,
    }


def _loop(index: str, count: int, body: str) -> str:
    return f"for (unsigned {index} = 0; {index} < {count}; {index}++) {{ {body} }}" if count else ""


def _product(what: str, number: int, source: str, op: Any, target: str) -> str:
    """Add what a matrix makes of its inputs: the row of the token, or the outputs at `source`."""
    lists = f"{what}{number}_starts, {what}{number}_columns, {what}{number}_values"
    if not source:
        return f"add_row({lists}, token, 1.0f, {target});"
    rows = len((op.inputs if what == "inputs" else op.recurrent).starts) - 1
    return f"add({lists}, {rows}, {source}, {target});"


def _main(name: str, small: RecurrentModel, row: Array) -> str:
    """The program that reads an example."""
    expected = small.predict(row[None])[0, -1]
    tables = table("uint32_t", "tokens", cells(row, False)), table("float", "expected", cells(expected, True))
    tolerance = float_cell(max(1e-4 * float(np.abs(expected).max(initial=0)), 1e-6))
    return template(
        "recurrent_main.c", TABLES="\n\n".join(tables), COUNT=len(row), TOLERANCE=tolerance, NAME=name,
        UPPER=name.upper(),
    )  # fmt: skip


def _header(name: str, tokens: int, outputs: int) -> str:
    upper = name.upper()
    return f"""\
#ifndef {upper}_H
#define {upper}_H

#define {upper}_TOKENS {tokens}
#define {upper}_OUTPUTS {outputs}

/* Go back to the state in which a sequence begins. */
void {name}_reset(void);

/* Read a token, 0 to {tokens - 1}; the {outputs} outputs stay there until the next call. */
const float *{name}_step(unsigned token);

#endif
"""


def _readme(name: str, small: RecurrentModel) -> str:
    layers = "\n".join(
        f"| {op.kind} | {op.units} | {len(op.inputs.values) + len(op.recurrent.values):,} |" for op in small.ops
    )
    return f"""\
# {name}

A sparse recurrent network in C99, in floats. No heap, no recursion; of the library only `expf` and `tanhf`.

```c
#include "{name}.h"

{name}_reset();
const float *outputs = {name}_step(token);  /* the state stays for the next call */
```

`make` runs main.c: an example, with the outputs it must have.

| layer | units | weights |
|---|---|---|
{layers}
"""
