"""Whatever is given as an array is read in the same way everywhere: in a `Dataset`, to train, to predict, to score."""

from __future__ import annotations

import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import N_CLASSES, bits, make_config, make_data, make_net

import svd_numpy as svd
from svd_numpy.checks import as_array
from svd_numpy.data import Dataset

NA = type("NAType", (), {})()  # a stand-in for pandas.NA


class Table:
    """What pandas' tables and columns are to NumPy: something with `__array__`."""

    def __init__(self, rows: Any) -> None:
        self.rows = np.asarray(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.rows if dtype is None else self.rows.astype(dtype)


class Tensor(Table):
    """What PyTorch's tensors are: with a gradient they refuse to become arrays, and bfloat16 does always."""

    def __init__(self, rows: Any, dtype: str = "torch.float32", attached: bool = True) -> None:
        super().__init__(rows)
        self.dtype, self.attached = dtype, attached

    def detach(self) -> Tensor:
        return Tensor(self.rows, self.dtype, attached=False)

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.rows, attached=self.attached)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if self.attached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return super().__array__(dtype, copy)


FORMS: dict[str, Any] = {
    "float16": lambda x: x,
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian float64": lambda x: x.astype(">f8"),
    "longdouble": lambda x: x.astype(np.longdouble),
    "lists": lambda x: x.tolist(),
    "Fortran order": np.asfortranarray,
    "objects": lambda x: x.astype(object),
    "masked array without a masked entry": np.ma.masked_invalid,
    "table": Table,
    "nullable table": lambda x: Table(x.astype(object)),
    "tensor": Tensor,
    "bfloat16 tensor": lambda x: Tensor(x.astype(np.float32), "torch.bfloat16"),
}


def exact(data: Dataset) -> Dataset:
    """The data in numbers that every format holds exactly."""
    return replace(data, x_train=data.x_train.astype(np.float16), x_test=data.x_test.astype(np.float16))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_numbers_gives_the_same_results(form: str, backend: str) -> None:
    data, convert = exact(make_data()), FORMS[form]
    plain = replace(data, x_train=data.x_train.astype(np.float32), x_test=data.x_test.astype(np.float32))
    labels = data.y_train.astype(">i2") if "endian" in form else data.y_train
    labels = Table(labels.astype(object)) if "nullable" in form else labels.tolist() if form == "lists" else labels
    given = replace(data, x_train=convert(data.x_train), y_train=labels, x_test=convert(data.x_test))
    models = []
    for own in (plain, given):
        model = make_net(backend)
        history = svd.fit(model, own, make_config(), progress=False)
        models.append((model, history[-1]["test_nll"]))
    (one, nll), (other, same) = models
    assert bits(one) == bits(other) and nll == same
    x, y = convert(data.x_train), labels
    np.testing.assert_array_equal(one.predict(x), one.predict(plain.x_train))
    np.testing.assert_array_equal(svd.compress(one).predict(x), svd.compress(one).predict(plain.x_train))
    assert svd.evaluate(one, x, y) == svd.evaluate(one, plain.x_train, data.y_train)
    given.split(20)


def test_tables_and_columns_of_pandas_are_arrays() -> None:
    pd = pytest.importorskip("pandas")
    data = make_data()
    table, column = pd.DataFrame(data.x_train), pd.Series(data.y_train, name="y", index=data.y_train + 7)
    for x, y in ((table, column), (table.astype("Float64"), column.astype("Int64"))):
        given = replace(data, x_train=x, y_train=y)
        np.testing.assert_array_equal(given.x_train, data.x_train)
        np.testing.assert_array_equal(given.y_train, data.y_train)
    table = table.astype("Float64")
    table.iloc[5, 2] = pd.NA
    with pytest.raises(svd.SvdValueError, match="x_train: example 5 holds NaN"):
        replace(data, x_train=table)


def put(array: Any, at: Any, value: Any) -> Any:
    array = array.copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda d: {"x_train": put(d.x_train, (3, 3), np.nan)}, "x_train: example 3 holds NaN"),
        (lambda d: {"x_test": put(d.x_test, (4, 0), np.inf)}, "x_test: example 4 holds NaN, infinity"),
        (lambda d: {"x_train": put(d.x_train.astype(object), (3, 3), NA)}, "x_train: example 3 holds NaN"),
        (
            lambda d: {"x_train": np.ma.masked_where(d.x_train == d.x_train[2, 5], d.x_train)},
            "x_train: row 2 .* masked",
        ),
        (lambda d: {"y_train": put(d.y_train.astype(object), 6, NA)}, "y_train: the target of example 6 is missing"),
        (lambda d: {"y_train": np.ma.masked_where(np.arange(110) == 6, d.y_train)}, "y_train: row 6 .* masked"),
        (lambda d: {"n_classes": 0, "y_test": put(d.y_test / 2, 8, np.nan)}, "y_test: the target of example 8"),
        (lambda d: {"n_classes": 0, "y_test": d.y_test.astype(str)}, "y_test: got dtype <U21, expected numbers"),
        (lambda d: {"x_train": None}, "x_train has shape ()"),
        (lambda d: {"x_train": [[1.0, 2.0], [3.0]]}, "x_train: got a list that is not an array"),
        (lambda d: {"x_train": d.x_train.astype(str)}, "x_train: got dtype <U32, expected uint8 pixels"),
        (lambda d: {"y_train": 3}, r"y_train has shape \(\)"),
        (lambda d: {"x_valid": d.x_train}, "got one of x_valid and y_valid"),
        (lambda d: {"image_shape": 12}, "image_shape: got 12, expected"),
        (lambda d: {"image_shape": (1, "a", 3)}, "image_shape: got 'a'"),
        (lambda d: {"image_shape": (1, 3, 3)}, "holds 9 values"),
        (lambda d: {"n_classes": "three"}, "n_classes: got 'three'"),
        (lambda d: {"n_classes": -1}, "n_classes: got -1"),
        (lambda d: {"name": 3}, "name: got 3"),
        (lambda d: {"warning": None}, "warning: got None"),
    ],
)
def test_a_dataset_refuses_what_cannot_be_used(changes: Any, words: str) -> None:
    data = make_data()
    with pytest.raises(svd.SvdError, match=words):
        replace(data, **changes(data))


def test_a_sparse_matrix_of_targets_is_refused_with_the_remedy() -> None:
    sparse, data = pytest.importorskip("scipy.sparse"), make_data()
    with pytest.raises(svd.SvdTypeError, match=r"a sparse csr_matrix, expected a dense array: its \.toarray\(\)"):
        svd.evaluate(make_net(), data.x_test, sparse.csr_matrix(data.y_test[:, None]))


def test_text_and_truth_values_stay_what_they_are() -> None:
    assert as_array("x", np.array(["a", "b"], object)).dtype.kind == "U"
    assert as_array("x", np.array([True, False], object)).dtype == bool


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_no_examples_give_no_outputs(backend: str) -> None:
    model, x = make_net(backend), np.zeros((0, 12), np.float32)
    small = svd.compress(model)
    for outputs in (model.predict(x), model.predict_proba(x), small.predict(x), small.predict_proba(x)):
        assert outputs.shape == (0, N_CLASSES)
    assert model.sample(x, 4).shape == (4, 0, N_CLASSES)
    for call in (
        lambda: svd.evaluate(model, x, []),
        lambda: model.loss(x, [], 5),
        lambda: svd.fit(model, Dataset("own", x, [], x, [], None, 0, ""), progress=False),
    ):
        with pytest.raises(svd.SvdValueError, match="got no example"):
            call()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_memory_mapped_array_is_read_in_pieces(tmp_path: Path, dtype: str, backend: str) -> None:
    rows, columns = 40_000, 400
    path = tmp_path / "x.npy"
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, columns))  # 32 to 128 MB
    whole[::7] = 1
    del whole
    x, y = np.load(path, mmap_mode="r"), np.zeros(rows, int)
    model = svd.Sequential(svd.VariationalDense(columns, 3), backend=backend, dtype="float32")
    small = svd.compress(model, backend=backend)
    data = Dataset("own", x, y, x[:9], y[:9], None, 3, "")
    config = svd.TrainConfig(epochs=1, batch_size=1000)
    uses: dict[str, Any] = {
        "predict": lambda x: model.predict(x),
        "evaluate": lambda x: svd.evaluate(model, x, y[: len(x)]),
        "compact": lambda x: small.predict(x),
        "dataset": lambda x: replace(data, x_train=x, y_train=y[: len(x)]),
    }
    if dtype != "float16":  # which training widens
        uses["fit"] = lambda x: svd.fit(model, replace(data, x_train=x, y_train=y[: len(x)]), config, progress=False)
    for name, use in uses.items():
        use(x[:10])  # compile
        tracemalloc.start()
        use(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 24e6, f"{name} took {peak / 1e6:.0f} MB"


def test_a_faulty_row_far_into_a_large_array_is_found() -> None:
    x = np.zeros((9000, 400), np.float32)  # more than one piece
    x[8123, 7] = np.nan
    with pytest.raises(svd.SvdValueError, match="example 8123 "):
        svd.Sequential(svd.VariationalDense(400, 3), backend="numpy").predict(x)


def test_pixels_given_as_floats_are_noticed() -> None:
    rng = np.random.default_rng(0)
    pixels, y = rng.integers(0, 256, (30, 784)), rng.integers(0, 3, 30)
    model = svd.Sequential(svd.VariationalDense(784, 3), backend="numpy")
    for x in (pixels.astype(np.float64), pixels.astype(np.float32)):
        with pytest.warns(UserWarning, match=r"look like pixels 0\.\.255.*divide by 255"):
            Dataset("own", x, y, x[:0], y[:0], (1, 28, 28), 3, "")
        with pytest.warns(UserWarning, match=r"look like pixels 0\.\.255.*divide by 255"):
            model.predict(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (pixels.astype(np.uint8), pixels / 255, pixels - 128.0, pixels + 0.5, 3.0 * pixels):
            model.predict(x)
