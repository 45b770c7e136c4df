"""`export_c`: a folder with a network as C, a program that tests it, a Makefile and a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdValueError, as_path, check_choice, check_inputs, check_some, check_type
from svd_numpy.exchange.c.code import Code, check_name, template, write_code
from svd_numpy.exchange.c.integers import IntegerModel
from svd_numpy.exchange.c.recurrent import recurrent_files
from svd_numpy.exchange.c.rounding import to_integers
from svd_numpy.exchange.c.steps import Steps, steps_of
from svd_numpy.exchange.c.tables import cells
from svd_numpy.files.atomic import replacing, write_atomic
from svd_numpy.kernels.backend import Array
from svd_numpy.sparse import SparseModel
from svd_numpy.sparse.recurrent import RecurrentModel

_EXAMPLES = 10


def export_c(
    small: SparseModel | RecurrentModel,
    folder: str | Path,
    calibration: Any,
    *,
    examples: Any = None,
    numbers: str = "integers",
) -> Path:
    """Write a compact network as C99 that needs no library, no heap and no float arithmetic.

    Tables are constants, so they stay in flash. A weight takes two bytes: its distance from the one before, and itself.
    Convolutions are computed row by row, together with ReLU and pooling, so that little RAM is needed.

    Parameters
    ----------
    small : SparseModel or RecurrentModel
    folder : path
        Written are NAME.h and NAME.c, where NAME is the last part of the path and an identifier in C, and main.c,
        Makefile and README.md: `make` there runs the network on the examples. Files of these names are replaced.
    calibration : array (B, *in_shape)
        Typical inputs, see `to_integers`; a few hundred training examples will do. For a recurrent network, tokens
        (T,) or (B, T), of which main.c reads the first row.
    examples : array (B, *in_shape), optional
        Inputs for main.c, of which it takes the first ten; default: those of `calibration`.
    numbers : "integers" or "floats"
        With "integers", the scores are bit for bit those of `to_integers(small, calibration).predict_integers`. With
        "floats", they are those of `small.predict` up to rounding, and tables and memory are larger. A recurrent
        network takes "floats" only: it becomes a function that reads one token and keeps the state.

    Returns
    -------
    Path
        NAME.c.

    Raises
    ------
    SvdValueError
        For a name that is not an identifier, a layer that is too large, or a network that is wrong in whole numbers.
    """
    if not isinstance(small, RecurrentModel):
        check_type("small", small, SparseModel)
    target = as_path("folder", folder)
    name = check_name(target.name)
    check_choice("numbers", numbers, ("integers", "floats"))
    if isinstance(small, RecurrentModel):
        if numbers != "floats":
            raise SvdValueError(
                f"numbers: got {numbers!r}, but recurrent networks are written in floats; pass numbers='floats'"
            )
        return _write(target, recurrent_files(name, small, calibration if examples is None else examples))
    if numbers == "integers":
        model: IntegerModel | None = to_integers(small, calibration)
        assert model is not None
        net = model.net
    else:
        model, net = None, steps_of(small)
    shown = check_inputs("examples", calibration if examples is None else examples, small.in_shape)[:_EXAMPLES]
    check_some("examples", shown)
    if model is not None and model.pixels != (shown.dtype == np.uint8):
        raise SvdValueError(f"examples: got {shown.dtype}, expected pixels if `calibration` has pixels, else floats")
    code = write_code(name, net, model)
    files = {
        "README.md": _readme(name, net, model, code, len(shown)),
        "Makefile": template("Makefile", NAME=name, LIBRARIES=""),
        "main.c": _main(name, small, model, shown),
        f"{name}.h": code.header,
        f"{name}.c": code.source,
    }
    return _write(target, files)


def _write(target: Path, files: dict[str, str]) -> Path:
    """Write the files of a folder, all or none; return the path of the code."""
    with replacing(target, list(files)) as beside:
        for file, text in files.items():
            write_atomic(beside / file, text.encode())
    return target / f"{target.name}.c"


def _main(name: str, small: SparseModel, model: IntegerModel | None, x: Array) -> str:
    """The program that compares the scores of a few examples with those expected."""
    pixels = x.dtype == np.uint8
    inputs, expected = (x, small.predict(x)) if model is None else (model.input_bytes(x), model.predict_integers(x))
    floats = not (pixels or model)
    score, tolerance = (
        ("float", f"{max(1e-3 * float(np.abs(expected).max()), 1e-30):.9g}f") if model is None else ("int32_t", "")
    )
    same = (
        "return found == wanted;"
        if model
        else f"const float off = found - wanted;\n    return off <= {tolerance} && off >= -{tolerance};"
    )
    return template(
        "main.c",
        NAME=name,
        COUNT=len(x),
        INPUTS=inputs.shape[1],
        OUTPUTS=expected.shape[1],
        INPUT="float" if floats else "uint8_t",
        SCORE=score,
        READ="pgm_read_float" if floats else "pgm_read_byte",
        EXAMPLES=_rows(inputs, floats),
        EXPECTED=_rows(expected, model is None),
        SAME=f"static int same({score} found, {score} wanted)\n{{\n    {same}\n}}\n",
        CONVERTED="READ(&examples[n][i]) / 255.0f" if model is None and pixels else "READ(&examples[n][i])",
    )


def _rows(rows: Array, floats: bool) -> str:
    """Arrays within an array."""
    written = []
    for row in rows:
        lines, line = list[str](), "   "
        for cell in cells(row, floats):
            if len(line) + len(cell) > 110:
                lines.append(line)
                line = "    "
            line += f" {cell},"
        written.append("\n".join([*lines, line]).replace("   ", "    {", 1) + "},")
    return "\n".join(written)


def _readme(name: str, net: Steps, model: IntegerModel | None, code: Code, count: int) -> str:
    weights = sum(int(np.count_nonzero(layer.weights)) for layer in code.layers)
    rows = "\n".join(
        f"| {layer.step.name} | {' x '.join(map(str, layer.step.out_shape))} | {np.count_nonzero(layer.weights):,} "
        f"| {len(layer.gaps):,} |"
        for layer in code.layers
    )
    numbers = "floats" if model is None else "whole numbers: 8-bit weights and activations, 32-bit sums"
    accuracy = "" if model is None else (
        f"\nOn the calibration data, outputs differ from the network in floats by at most {model.error:.2g} of the "
        "largest one.\n"
    )  # fmt: skip
    upper = name.upper()
    return f"""\
# {name}

A sparse network in C99, in {numbers}. No library, no heap, no recursion; every loop has a fixed bound.

```c
#include "{name}.h"

{name}_score scores[{upper}_OUTPUTS];
/* fill {name}_input[0] .. {name}_input[{upper}_INPUTS - 1]; the network overwrites them */
unsigned best = {name}_run(scores);
```

* `make` runs main.c: {count} examples, with the scores they must have.
* `make size` measures code, tables and RAM, also with a compiler for another machine (see Makefile).

| | bytes |
|---|---|
| tables, in flash | {code.table_bytes:,} |
| RAM, input included, without stack | {code.ram_bytes:,} |

On a Cortex-M, compiled with -Os, code takes about 300 bytes more, and 1,100 with convolutions.
{accuracy}
| layer | results | weights | entries |
|---|---|---|---|
{rows}

{weights:,} weights in all. An entry is a weight and its distance from the one before; where that is more than 255,
entries with a weight of 0 lie between. To test, compile and run on the chip what `make` runs here: it returns how many
examples are wrong.
"""
