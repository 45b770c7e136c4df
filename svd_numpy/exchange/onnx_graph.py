"""A compact network or an estimator as an ONNX file, which most runtimes read.

ONNX stores images channels first, a compact network channels last; the graph works channels first and transposes images
only where they are flattened.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from svd_numpy.checks import SvdImportError, SvdTypeError, SvdValueError, check_file, check_flag
from svd_numpy.files.atomic import write_atomic
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.window import Window
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Categorical
from svd_numpy.sparse import ConvOp, DenseOp, PadOp, PoolOp, ScaleOp, SparseModel, TakeOp, compress
from svd_numpy.sparse.ops import channels_first

OPSET, IR_VERSION = 19, 9  # from 2023; every runtime since then reads them
_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def export_onnx(small: Any, path: str | Path, sparse: bool = False, probabilities: bool = False) -> None:
    """Write a compact network, or a fitted estimator, as ONNX.

    The graph maps "x", float32 (B, I) or (B, C, H, W), to "outputs", float32 (B, O), as `small.predict` does. Divide
    uint8 pixels by 255 first.

    The graph of a `SparseVDClassifier` or `SparseVDRegressor` includes the standardisation, so that "x" is a raw table,
    float64 (B, I). Its "outputs" are logits, or the predicted targets, float64 (B, targets).

    Parameters
    ----------
    small : SparseModel, SparseVDClassifier or SparseVDRegressor
    path : path
        Ending in .onnx.
    sparse : bool
        Store matrices in the sparse form as sparse initialisers, for a smaller file. onnxruntime reads it; the checker
        of `onnx` refuses it, as it does not expect a sparse `Gemm` or `Conv`, and other runtimes may refuse it too.
    probabilities : bool
        Add two outputs of a classifier: "probabilities", float32 (B, classes), and "label" (B,), the most probable
        class: its number, int64, or, of an estimator, the entry of `classes_`.

    Raises
    ------
    ValueError, TypeError
        For an estimator that is not fitted or has labels that ONNX does not know, and for `probabilities` of a
        regression.
    ImportError
        If `onnx` is not installed.
    """
    table = None if isinstance(small, SparseModel) else _table_of(small)
    if table is not None:
        small = compress(small.model_, backend="numpy")
    sparse, probabilities = check_flag("sparse", sparse), check_flag("probabilities", probabilities)
    if probabilities and not isinstance(small.likelihood, Categorical):
        raise SvdValueError("probabilities: got True for a regression, expected a classifier")
    target = check_file("path", path, ".onnx")
    try:
        import onnx
    except ImportError as error:
        raise SvdImportError("export_onnx needs onnx; install it with: pip install svd-numpy[export]") from error
    model = _Graph(small, sparse, table).model(probabilities)
    if not sparse:
        onnx.checker.check_model(model, full_check=True)
    write_atomic(target, model.SerializeToString())


class _Table(NamedTuple):
    """What an estimator does around its network: (x - mean) / scale before, y * target_scale + target_mean after."""

    mean: Array
    scale: Array
    target_mean: Array | None
    target_scale: Array | None
    classes: Array | None


def _table_of(estimator: Any) -> _Table:
    """Read what belongs to a fitted estimator, by the names that scikit-learn gives it."""
    if not hasattr(estimator, "get_params"):
        kind = type(estimator).__name__
        raise SvdTypeError(f"small: got a {kind}, expected a SparseModel, SparseVDClassifier or SparseVDRegressor")
    if not isinstance(getattr(estimator, "model_", None), Sequential):
        raise SvdValueError(f"small: got {estimator!r}, which is not fitted; call its fit first")
    scaler, targets = estimator.scaler_, getattr(estimator, "target_scaler_", None)
    mean, scale = (None, None) if targets is None else (targets.mean_, targets.scale_)
    return _Table(scaler.mean_, scaler.scale_, mean, scale, getattr(estimator, "classes_", None))


class _Graph:
    """The nodes and initialisers of a network, added one by one; `_now` names the latest result."""

    def __init__(self, small: SparseModel, sparse: bool, table: _Table | None) -> None:
        self._small, self._sparse, self._table = small, sparse, table
        self._nodes: list[Any] = []
        self._arrays: list[Any] = []
        self._sparse_arrays: list[Any] = []
        self._now, self._shape = "x", small.in_shape
        if table is not None:
            self._standardise(table)
        for op in small.ops:
            if isinstance(op, TakeOp):
                self._take(op)
            elif isinstance(op, DenseOp):
                self._dense(op)
            elif isinstance(op, ConvOp):
                self._conv(op)
            elif isinstance(op, PoolOp):
                self._pool(op)
            elif isinstance(op, PadOp):
                self._pad(op)
            else:
                self._scale(op)
            self._shape = op.out_shape
        self._flatten()

    def model(self, probabilities: bool) -> Any:
        """Return the graph as a ModelProto."""
        from onnx import TensorProto, helper

        table, kind = self._table, TensorProto.FLOAT
        if table is not None and table.target_scale is not None:
            self._restore_targets(table)
            kind = TensorProto.DOUBLE
        self._name("outputs")
        given = TensorProto.FLOAT if table is None else TensorProto.DOUBLE
        x = helper.make_tensor_value_info("x", given, ["B", *self._small.in_shape])
        outputs = [helper.make_tensor_value_info("outputs", kind, ["B", self._small.n_outputs])]
        if probabilities:
            outputs += self._classify()
        graph = helper.make_graph(
            self._nodes, "svd_numpy", [x], outputs, self._arrays, sparse_initializer=self._sparse_arrays
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

    def _name(self, name: str) -> None:
        """Give the latest result a name of its own."""
        self._nodes[-1].output[0] = self._now = name

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

    # ---- around the network ----

    def _standardise(self, table: _Table) -> None:
        """Subtract means and divide by deviations in float64, as scikit-learn does, then go on in float32."""
        from onnx import TensorProto

        self._node("Sub", self._array("table_mean", table.mean))
        self._node("Div", self._array("table_scale", table.scale))
        self._node("Cast", to=TensorProto.FLOAT)

    def _restore_targets(self, table: _Table) -> None:
        """Undo the standardisation of the targets, in float64."""
        from onnx import TensorProto

        assert table.target_scale is not None and table.target_mean is not None
        self._node("Cast", to=TensorProto.DOUBLE)
        self._node("Mul", self._array("target_scale", table.target_scale))
        self._node("Add", self._array("target_mean", table.target_mean))

    def _classify(self) -> list[Any]:
        """Add probabilities and the most probable label; return what describes these two outputs."""
        from onnx import TensorProto, helper

        classes = None if self._table is None else self._table.classes
        numbers = self._now
        self._node("Softmax", axis=-1)
        self._name("probabilities")
        self._now, kind = numbers, TensorProto.INT64
        self._node("ArgMax", axis=1, keepdims=0)
        if classes is not None:
            labels = self._labels(classes)
            kind, place = labels.data_type, self._now
            self._arrays.append(labels)
            self._now = labels.name
            self._node("Gather", place, axis=0)
        self._name("label")
        return [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", self._small.n_outputs]),
            helper.make_tensor_value_info("label", kind, ["B"]),
        ]

    def _labels(self, classes: Array) -> Any:
        """The different labels as an initialiser: whole numbers, floats, flags or text."""
        from onnx import TensorProto, helper, numpy_helper

        if classes.dtype.kind in "biuf":
            kind = {"b": np.bool_, "f": np.float64}.get(classes.dtype.kind, np.int64)
            return numpy_helper.from_array(classes.astype(kind), "classes")
        if not all(isinstance(label, str) for label in classes):
            raise SvdTypeError(f"probabilities: got classes_ of {classes.dtype}, expected numbers or text")
        texts: list[Any] = [str(label).encode() for label in classes]
        return helper.make_tensor("classes", TensorProto.STRING, [len(texts)], texts)

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
            self._node("AveragePool", count_include_pad=int(op.kind == "avg"), **_geometry(op.window))

    def _pad(self, op: PadOp) -> None:
        top, bottom, left, right = op.padding.edges
        pads = self._array(f"{op.name}_pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
        self._node("Pad", pads, mode=_PAD_MODES[op.padding.mode])

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
