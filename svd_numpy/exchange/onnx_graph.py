"""A compact network as an ONNX file, which most runtimes read.

ONNX stores images channels first, a compact network channels last; the graph works channels first and transposes images
only where they are flattened.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import SvdImportError, check_file, check_flag, check_type
from svd_numpy.files.atomic import write_atomic
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.window import Window
from svd_numpy.sparse import ConvOp, DenseOp, PoolOp, ScaleOp, SparseModel, TakeOp
from svd_numpy.sparse.ops import channels_first

OPSET, IR_VERSION = 19, 9  # from 2023; every runtime since then reads them


def export_onnx(small: SparseModel, path: str | Path, sparse: bool = False) -> None:
    """Write a compact network as ONNX.

    The graph maps "x", float32 (B, I) or (B, C, H, W), to "outputs", float32 (B, O), as `small.predict` does. Divide
    uint8 pixels by 255 first.

    Parameters
    ----------
    small : SparseModel
    path : path
        Ending in .onnx.
    sparse : bool
        Store matrices in the sparse form as sparse initialisers, for a smaller file. onnxruntime reads it; the checker
        of `onnx` refuses it, as it does not expect a sparse `Gemm` or `Conv`, and other runtimes may refuse it too.

    Raises
    ------
    ImportError
        If `onnx` is not installed.
    """
    check_type("small", small, SparseModel)
    sparse = check_flag("sparse", sparse)
    target = check_file("path", path, ".onnx")
    try:
        import onnx
    except ImportError as error:
        raise SvdImportError("export_onnx needs onnx; install it with: pip install svd-numpy[export]") from error
    model = _Graph(small, sparse).model()
    if not sparse:
        onnx.checker.check_model(model, full_check=True)
    write_atomic(target, model.SerializeToString())


class _Graph:
    """The nodes and initialisers of a network, added one by one; `_now` names the latest result."""

    def __init__(self, small: SparseModel, sparse: bool) -> None:
        self._small, self._sparse = small, sparse
        self._nodes: list[Any] = []
        self._arrays: list[Any] = []
        self._sparse_arrays: list[Any] = []
        self._now, self._shape = "x", small.in_shape
        for op in small.ops:
            if isinstance(op, TakeOp):
                self._take(op)
            elif isinstance(op, DenseOp):
                self._dense(op)
            elif isinstance(op, ConvOp):
                self._conv(op)
            elif isinstance(op, PoolOp):
                self._pool(op)
            else:
                self._scale(op)
            self._shape = op.out_shape
        self._flatten()

    def model(self) -> Any:
        """Return the graph as a ModelProto."""
        from onnx import TensorProto, helper

        self._nodes[-1].output[0] = "outputs"
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *self._small.in_shape])
        y = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["B", self._small.n_outputs])
        graph = helper.make_graph(
            self._nodes, "svd_numpy", [x], [y], self._arrays, sparse_initializer=self._sparse_arrays
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="svd_numpy")

    # ---- pieces ----

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """Add a node that takes the latest result and the given inputs."""
        from onnx import helper

        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, [self._now, *inputs], [output], **attributes))
        self._now = output

    def _array(self, name: str, array: Array) -> str:
        """Add an initialiser; return its name."""
        from onnx import numpy_helper

        self._arrays.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _weights(self, name: str, array: Array, sparse: bool) -> str:
        """Add weights as a sparse or dense initialiser; return its name."""
        from onnx import helper, numpy_helper

        places = np.flatnonzero(array)
        if not (sparse and places.size):
            return self._array(name, array)
        values = numpy_helper.from_array(array.ravel()[places], name)  # the name belongs to the values
        indices = numpy_helper.from_array(places.astype(np.int64), f"{name}_indices")
        self._sparse_arrays.append(helper.make_sparse_tensor(values, indices, array.shape))
        return name

    def _reshape(self, *shape: int) -> None:
        self._node("Reshape", self._array(f"shape_{len(self._nodes)}", np.array([-1, *shape])), allowzero=1)

    def _flatten(self) -> None:
        """Flatten images to rows, channels last, the order in compact networks."""
        if len(self._shape) == 3:
            self._node("Transpose", perm=[0, 2, 3, 1])
            self._rows(math.prod(self._shape))

    def _rows(self, width: int) -> None:
        if width:
            self._reshape(width)
        else:  # with width 0, Reshape cannot infer the number of rows from -1
            self._node("Flatten", axis=1)

    def _rectify(self, relu: bool) -> None:
        if relu:
            self._node("Relu")

    # ---- ops ----

    def _take(self, op: TakeOp) -> None:
        shape = op.out_shape
        if len(op.in_shape) == 3:
            self._rows(math.prod(op.in_shape))
        index = channels_first(op.index.astype(np.int64), shape)
        self._node("Gather", self._array("input_index", index), axis=1)
        if op.mean is not None:
            self._node("Sub", self._array("input_mean", channels_first(op.mean, shape)))
        if len(shape) == 3:
            self._reshape(shape[2], shape[0], shape[1])

    def _dense(self, op: DenseOp) -> None:
        self._flatten()
        if len(op.inputs) != math.prod(self._shape):
            self._node("Gather", self._array(f"{op.name}_inputs", op.inputs.astype(np.int64)), axis=1)
        sparse = self._sparse and op.weights.form == "sparse"
        theta = self._weights(f"{op.name}_theta", op.weights.matrix(), sparse)
        self._node("Gemm", theta, self._array(f"{op.name}_bias", op.bias))
        self._rectify(op.relu)

    def _conv(self, op: ConvOp) -> None:
        window = op.window
        theta = op.weights.matrix().reshape(*window.kernel, window.channels, -1).transpose(3, 2, 0, 1)
        sparse = self._sparse and op.weights.form == "sparse"
        names = self._weights(f"{op.name}_theta", theta, sparse), self._array(f"{op.name}_bias", op.bias)
        self._node("Conv", *names, dilations=window.dilation, **_geometry(window))
        self._rectify(op.relu)

    def _pool(self, op: PoolOp) -> None:
        if op.kind == "max":
            self._node("MaxPool", **_geometry(op.window))
        else:
            self._node("AveragePool", count_include_pad=1, **_geometry(op.window))

    def _scale(self, op: ScaleOp) -> None:
        shape = (1, -1)
        if len(op.out_shape) == 3:
            shape = (1, -1, 1, 1)  # type: ignore[assignment]
        else:
            self._flatten()
        self._node("Mul", self._array(f"{op.name}_scale", op.scale.reshape(shape)))
        self._node("Add", self._array(f"{op.name}_shift", op.shift.reshape(shape)))
        self._rectify(op.relu)


def _geometry(window: Window) -> dict[str, Any]:
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": (*window.padding, *window.padding)}
