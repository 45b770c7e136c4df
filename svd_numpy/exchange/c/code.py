"""The C code of a network: its tables, its layers, and the functions that compute images row by row."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.exchange.c.integers import IntegerModel
from svd_numpy.exchange.c.memory import Plan, Rows, plan_memory
from svd_numpy.exchange.c.steps import DenseStep, ImageStep, Step, Steps
from svd_numpy.exchange.c.tables import COPY, NAME, Layer, cells, layers_of, strides_of, table, tables_of

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, eq=False)
class Code:
    """A network as C.

    Attributes
    ----------
    source, header : str
    layers : list of Layer
    plan : Plan
    floats : bool
    """

    source: str
    header: str
    layers: list[Layer]
    plan: Plan
    floats: bool

    @property
    def table_bytes(self) -> int:
        """Bytes of the tables, which are constants."""
        number, bias = (4, 4) if self.floats else (1, 2)
        each = ((1 + number) * len(la.gaps) + (2 + bias) * len(la.biases) for la in self.layers)
        return sum(each)

    @property
    def ram_bytes(self) -> int:
        """Bytes of memory, input included, and of a convolution's sums; a pointer and some counters come on top."""
        sums = sum(_longest_rows(layer.step for layer in self.layers))
        return self.plan.size * (4 if self.floats else 1) + 4 * sums


def template(name: str, **words: object) -> str:
    """Return a template with its words, written @LIKE@ this, filled in."""
    text = (_TEMPLATES / name).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", str(value))
    return text


def check_name(name: str) -> str:
    """Return a name that C allows for everything that starts with it."""
    if not NAME.fullmatch(name) or name.lower() == "main":
        raise SvdValueError(
            f"export_c: got the name {name!r}, expected a letter, then letters, digits and underscores, but not "
            "main, the name of the test program"
        )
    return name


def write_code(name: str, net: Steps, model: IntegerModel | None) -> Code:
    """Write a network in whole numbers, or, if `model` is None, in floats."""
    plan = plan_memory(net)
    layers = layers_of(net, model, plan)
    return Code(_source(name, net, model, layers, plan), _header(name, net, model, plan), layers, plan, model is None)


def _structure(layer: Layer, inner: str) -> str:
    """The initialiser of a struct layer."""
    own = {what: f"{layer.name}_{what}" for what in ("gaps", "weights", "counts", "biases")}
    fields = {**own, "outputs": len(layer.biases), **layer.numbers}
    return ("," + inner).join(f".{field} = {value}" for field, value in fields.items())


def _image(layer: Layer, step: ImageStep, strides: tuple[int, int], model: IntegerModel | None, written: Rows) -> str:
    conv, pool = step.window, step.pool
    start: object = 0 if step.mean else "LEAST_SUM"
    if model is not None and step.mean:
        start = next(own.start for own in model.steps if own.step is step)
    fields = {
        "rows": conv.out[0], "columns": conv.out[1], "row_step": conv.stride[0] * strides[0],
        "column_step": conv.stride[1], "pool_rows": pool.kernel[0], "pool_columns": pool.kernel[1],
        "pool_down": pool.stride[0], "pool_across": pool.stride[1], "pool_top": pool.padding[0],
        "pool_left": pool.padding[1], "results": pool.out[1], "channel": written.width, "means": int(step.mean),
        "start": start,
    }  # fmt: skip
    rest = ",\n    ".join(f".{field} = {value}" for field, value in fields.items())
    own = _structure(layer, "\n        ")
    return (
        f"static const struct image {layer.name}_image = {{\n    .layer = {{\n        {own}\n    }},\n    {rest}\n}};"
    )


def _rows(name: str, rows: Rows, start: int, pad: object) -> str:
    return (
        f"static const struct rows {name}_rows = {{.memory = @NAME@_memory + {start}, .size = {rows.row}, "
        f".slots = {rows.slots},\n    .above = {rows.padding[0]}, .height = {rows.height}, .pad = {pad}}};\n"
        f"static uint16_t {name}_done; /* rows so far, with padding */"
    )


_NEXT = Template("""\
static void ${name}_next(void)
{
    const uint16_t y = (uint16_t)(${name}_done - ${name}_rows.above);
    const uint8_t inside = is_inside(&${name}_rows, ${name}_done);
    value_t *row;
${before}    row = next_row(&${name}_rows, ${name}_done);
    if (inside) {
${compute}
    }
    ${name}_done++;
}""")
_UNTIL = Template("""\
static void ${name}_until(unsigned rows)
{
    for (unsigned done = ${name}_done; done < rows; done++) {
        ${name}_next();
    }
}""")
_BEFORE = Template("""\
    if (inside) {
        ${source}_until(y * ${step}u + ${seen}u);
    }
""")
_PASSES = Template("""\
        for (unsigned j = 0; j < ${passes}; j++) {
${pull}            image_row(&${name}_image, j == 0, ${inputs}, row + ${left});
        }""")


def _source(name: str, net: Steps, model: IntegerModel | None, layers: list[Layer], plan: Plan) -> str:
    floats = model is None
    images = [layer for layer in layers if isinstance(layer.step, ImageStep)]
    parts = [
        f"/* {name}: written by svd_numpy. It needs neither a library nor memory from a heap. */",
        f'#include "{name}.h"',
        f"#define MEMORY_RESULTS {int(len(layers) > 1)} /* whether any layer's results go to memory */",
        template("floats.c" if floats else "integers.c").rstrip(),
    ]
    if images:
        columns, results = _longest_rows(layer.step for layer in images)
        parts += [f"#define MOST_COLUMNS {columns}", template("images.c").rstrip()]
        if any(layer.step.streamed for layer in images if isinstance(layer.step, ImageStep)):
            parts.append(template("row.c").rstrip())
        if results:
            parts += [f"#define MOST_RESULTS {results}", template("rows.c").rstrip()]
    parts += [template("dense.c").rstrip(), *(tables_of(layer, floats) for layer in layers)]
    parts.append(f"value_t {name}_memory[{name.upper()}_MEMORY];")
    dense = [layer for layer in layers if isinstance(layer.step, DenseStep)]
    parts += _image_parts(net, model, images, plan)
    parts += [
        f"static const struct layer {la.name}_layer = {{\n    {_structure(la, chr(10) + '    ')}\n}};" for la in dense
    ]
    parts.append(_run(name, images, dense, plan))
    return "\n\n".join(parts).replace("@NAME@", name) + "\n"


def _longest_rows(images: Iterable[Step]) -> tuple[int, int]:
    """Most columns of any convolution, and of any pooling that needs all its rows at once."""
    steps = [step for step in images if isinstance(step, ImageStep)]
    return (
        max((step.window.out[1] for step in steps), default=0),
        max((step.pool.out[1] for step in steps if not step.streamed), default=0),
    )


def _image_parts(net: Steps, model: IntegerModel | None, images: list[Layer], plan: Plan) -> list[str]:
    """The structures of all image steps and the functions that compute their next rows."""
    names, parts = [layer.name for layer in images], list[str]()
    if net.copied:
        names.insert(0, COPY)
        parts.append(_copy(net, model, plan))
    for number, rows in enumerate(plan.rows):
        layer = images[number - net.copied] if number >= net.copied else None
        reader = number + 1 - net.copied
        pad: object = 0
        if model is not None:
            pad = model.steps[reader].pad if reader < len(images) else 0
        parts.append(_rows(names[number], rows, plan.starts[number + 1], pad))
        before, compute = "", f"        copy_row(y, row + {rows.padding[1]});"
        if layer is not None:
            assert isinstance(layer.step, ImageStep)
            row = strides_of(net, plan, number - net.copied)[0]
            parts.append(_image(layer, layer.step, strides_of(net, plan, number - net.copied), model, rows))
            source = names[number - 1] if number else ""
            if source:
                before = _BEFORE.substitute(source=source, step=layer.step.row_step, seen=layer.step.seen_rows)
            compute = _compute(layer.name, layer.step, source, row, rows.padding[1])
        parts.append(_NEXT.substitute(name=names[number], before=before, compute=compute))
        parts.append(_UNTIL.substitute(name=names[number]))
    return parts


def _compute(name: str, step: ImageStep, source: str, row: int, left: int) -> str:
    """The calls that compute a row of an image step, from the rows of `source` or, if there is none, of the input."""
    stride = step.window.stride[0]
    if not step.streamed:
        inputs = f"{source}_rows.memory" if source else f"@NAME@_input + y * {step.row_step * row}u"
        return f"        image_from_window(&{name}_image, y, {inputs}, row + {left});"
    at = f"(y * {step.pool.stride[0]}u + j) * "
    pull = f"            {source}_until({at}{stride}u + {step.seen_rows}u);\n" if source else ""
    inputs = f"{source}_rows.memory" if source else f"@NAME@_input + {at}{stride * row}u"
    return _PASSES.substitute(passes=step.pool.kernel[0], pull=pull, name=name, inputs=inputs, left=left)


def _copy(net: Steps, model: IntegerModel | None, plan: Plan) -> str:
    """The function that copies a row of the input, and the table of the mean, if there is one."""
    width, channels = net.shape[1:]
    _, high, wide = net.in_shape
    what, value, written, begin, onwards = "with padding around it", "input[i]", "", "", ""
    if net.mean is not None:
        mean = net.mean if model is None else model.offset
        assert mean is not None
        kind, value = "bias_t", "input[i] - READ_BIAS(mean + i)"
        if model is not None:
            kind, value = "uint8_t", "(value_t)((input[i] + READ_GAP(mean + i) + 1) >> 1)"
        by_row = np.moveaxis(mean.reshape(net.shape), 2, 1)
        written = table(kind, "input_mean", cells(by_row, model is None)) + "\n\n"
        what = "from which the mean is subtracted"
        begin = f"    const {kind} *mean = input_mean + y * {channels * width}u;\n"
        onwards = f"    mean += {width};\n"
    pieces = [
        f"    input = @NAME@_input + {int(channel) * high * wide}u + y * {wide}u;\n"
        f"    for (uint16_t i = 0; i < {width}; i++) {{\n        row[i] = {value};\n    }}\n"
        for channel in net.channels
    ]
    body = f"    row += {plan.rows[0].width};\n{onwards}".join(pieces)
    return (
        f"{written}/* A row of the input, {what}. */\nstatic void copy_row(uint16_t y, value_t *row)\n{{\n"
        f"    const value_t *input;\n{begin}{body}}}"
    )


def _run(name: str, images: list[Layer], dense: list[Layer], plan: Plan) -> str:
    lines = list[str]()
    writers = ([COPY] if len(plan.rows) > len(images) else []) + [layer.name for layer in images]
    lines += [f"    {writer}_done = 0;" for writer in writers]
    if writers:
        lines.append(f"    {writers[-1]}_until({plan.rows[-1].height});")
    source = plan.starts[len(plan.rows)]
    for number, layer in enumerate(dense):
        last = number == len(dense) - 1
        target = "0" if last else f"{name}_memory + {plan.starts[len(plan.rows) + 1 + number]}"
        lines.append(
            f"    dense(&{layer.name}_layer, {name}_memory + {source}, {target}, {'scores' if last else '0'});"
        )
        source = 0 if last else plan.starts[len(plan.rows) + 1 + number]
    body = "\n".join(lines)
    return (
        f"unsigned {name}_run({name}_score scores[{name.upper()}_OUTPUTS])\n{{\n    unsigned best = 0;\n{body}\n"
        f"    for (unsigned i = 1; i < {name.upper()}_OUTPUTS; i++) {{\n        if (scores[i] > scores[best]) {{\n"
        "            best = i;\n        }\n    }\n    return best;\n}"
    )


def _header(name: str, net: Steps, model: IntegerModel | None, plan: Plan) -> str:
    upper, size = name.upper(), math.prod(net.in_shape)
    shape = " x ".join(map(str, net.in_shape))
    if model is None:
        kind, score, what = "float", "float", "floats, pixels from 0 to 1"
        scores = "They are the network's outputs."
    else:
        kind, score = "uint8_t", "int32_t"
        what = f"bytes b for (b - {model.input.zero}) * {model.input.step:.9g}"
        what = "pixels from 0 to 255" if model.pixels else what
        scores = f"Multiplied by {model.unit:.9g}, they are the network's outputs."
    return f"""\
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#define {upper}_INPUTS {size}
#define {upper}_OUTPUTS {len(net.steps[-1].bias)}
#define {upper}_MEMORY {max(1, plan.size)}

typedef {score} {name}_score;

/* All activations. */
extern {kind} {name}_memory[{upper}_MEMORY];

/* Where to write the input: {shape} numbers, {what}. The network overwrites it. */
#define {name}_input ({name}_memory + {plan.starts[0]})

/* Read the input and write the scores; return which of them is the largest.
   {scores} */
unsigned {name}_run({name}_score scores[{upper}_OUTPUTS]);

#endif
"""
