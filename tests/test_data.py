"""Data: folder layouts, verification, arguments, `Dataset`, and the small tables."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_tools import RAW_NAMES, empty_cache, idx_bytes, make_files, pin, store, tiny_sets, tree  # noqa: F401 - fixtures

from svd_numpy import data
from svd_numpy.data import sources
from svd_numpy.data.sources import FileSet, FileSpec

REAL_DATA = os.environ.get("SVD_NUMPY_DATA", "")

# --- finding and verifying ---------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw", "MNIST", "", "raw"])
def test_every_layout_is_found(tmp_path: Path, tiny: dict[str, bytes], layout: str, packed: bool) -> None:
    root = tmp_path / "given"
    store(root / layout, tiny, packed)
    before = tree(root)
    loaded = data.load("mnist", root)
    assert (loaded.name, loaded.image_shape, loaded.n_classes, loaded.warning) == ("mnist", (1, 4, 3), 10, "")
    assert loaded.x_train.shape == (7, 12) and loaded.x_train.dtype == np.uint8
    assert loaded.y_test.shape == (3,) and loaded.y_test.dtype == np.int64
    assert loaded.x_train.tobytes() == tiny[RAW_NAMES[0]][16:]
    assert bytes(loaded.y_test.astype(np.uint8)) == tiny[RAW_NAMES[3]][8:]
    assert str(root) in loaded.source
    assert tree(root) == before


def test_dotted_names_and_gz_names_on_unpacked_files_are_accepted(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    for name, raw in tiny.items():
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(raw)
    assert len(data.load("mnist", tmp_path).x_train) == 7
    other = tmp_path / "other"
    store(other, {f"{name}.gz": raw for name, raw in tiny.items()}, packed=False)
    assert len(data.load("mnist", other).x_train) == 7


def test_a_recompressed_file_is_accepted_by_its_content(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    for name, raw in tiny.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(raw, compresslevel=1, mtime=12345))
    loaded = data.load("mnist", tmp_path)
    assert loaded.x_test.tobytes() == tiny[RAW_NAMES[2]][16:]


def damaged(raw: bytes, kind: str) -> bytes:
    if kind == "one pixel":
        return raw[:-1] + bytes([raw[-1] ^ 1])
    if kind == "one image less":
        return raw[:4] + (int.from_bytes(raw[4:8], "big") - 1).to_bytes(4, "big") + raw[8:-12]
    if kind == "more claimed":
        return raw[:4] + (1000).to_bytes(4, "big") + raw[8:]
    return raw[: len(raw) // 2]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("one pixel", "SHA-256"),
        ("one image less", r"shape \(6, 4, 3\); expected \(7, 4, 3\)"),
        ("more claimed", "announces"),
        ("half", "only"),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(
    tmp_path: Path, tiny: dict[str, bytes], kind: str, expected: str, packed: bool
) -> None:
    store(tmp_path, tiny, packed)
    name = RAW_NAMES[0]
    store(tmp_path, {name: damaged(tiny[name], kind)}, packed)
    for dataset in ("mnist", "auto"):  # damage is never a reason to fall back silently
        with pytest.raises(data.DataError, match=expected) as caught:
            data.load(dataset, tmp_path)
        assert name in str(caught.value) and str(tmp_path) in str(caught.value)
        assert "elete it" in str(caught.value)


def test_labels_out_of_range_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_files(3)
    files[RAW_NAMES[1]] = idx_bytes(np.array([0, 1, 2, 3, 4, 5, 17], dtype=np.uint8))
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files))
    with pytest.raises(data.DataError, match=r"train-labels.* label 17; expected 0\.\.9"):
        data.load("mnist", store(tmp_path, files))


def test_the_other_set_with_the_same_file_names_is_recognised(
    tmp_path: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, tiny)
    with pytest.raises(data.MissingDataError, match="those of 'mnist'"):
        data.load("fashion-mnist", tmp_path)
    (tmp_path / f"{RAW_NAMES[0]}.gz").write_bytes(gzip.compress(make_files(2)[RAW_NAMES[0]]))
    with pytest.raises(data.DataError, match="the file of 'fashion-mnist'"):
        data.load("mnist", tmp_path)


def test_search_order(tmp_path: Path, cache: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    store(cache / "mnist", tiny)
    assert "cache" in data.load("mnist").source
    named = store(tmp_path / "named", tiny)
    monkeypatch.setenv("SVD_NUMPY_DATA", str(named))
    assert str(named) in data.load("mnist").source
    given_folder = store(tmp_path / "given", tiny)
    assert str(given_folder) in data.load("mnist", str(given_folder)).source
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("mnist", "auto"):  # a given folder is the only one searched
        with pytest.raises(data.MissingDataError, match="data_dir is given"):
            data.load(name, empty)
    monkeypatch.setenv("SVD_NUMPY_DATA", str(empty))
    assert "cache" in data.load("mnist").source


def test_a_set_with_a_missing_file_says_which(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    store(tmp_path / "mnist", tiny)
    (tmp_path / "mnist" / f"{RAW_NAMES[2]}.gz").unlink()
    with pytest.raises(data.MissingDataError, match=f"lacks {RAW_NAMES[2]}"):
        data.load("mnist", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="folder permissions work otherwise on Windows")
def test_a_read_only_folder_is_fine(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    root = store(tmp_path / "given", tiny)
    root.chmod(0o555)
    try:
        assert len(data.load("mnist", root).x_train) == 7
    finally:
        root.chmod(0o755)


# --- arguments ---------------------------------------------------------------------------------


def test_bad_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'cifar99'.*'fashion-mnist', 'cifar10', 'cifar100', 'boston', .*'digits'"):
        data.load("cifar99")
    with pytest.raises(TypeError, match="got 3 of type int, expected a str"):
        data.load(3)  # type: ignore[arg-type]
    for name in data.NAMES:
        with pytest.raises(data.DataError, match=r"data_dir is .*absent.* not a folder"):
            data.load(name, tmp_path / "absent")
    with pytest.raises(data.DataError, match="data_dir is ''"):
        data.load("mnist", "")
    with pytest.raises(TypeError, match="data_dir: got 3 of type int, expected a path"):
        data.load("mnist", 3)  # type: ignore[arg-type]
    monkeypatch.setenv("SVD_NUMPY_DATA", str(tmp_path / "absent"))
    with pytest.raises(data.DataError, match=r"SVD_NUMPY_DATA is .*absent"):
        data.load("auto")
    assert issubclass(data.MissingDataError, data.DataError) and issubclass(data.DataError, ValueError)


# --- Dataset -----------------------------------------------------------------------------------


def own_dataset(n: int = 50) -> data.Dataset:
    x = np.arange(n * 4, dtype=np.uint8).reshape(n, 4)
    y = np.arange(n) % 3
    return data.Dataset("own", x, y, x[:5], y[:5], (1, 2, 2), 3, "memory")


def test_split_takes_validation_rows_from_the_training_rows() -> None:
    whole = own_dataset()
    part = whole.split(12, seed=7)
    assert part.x_valid is not None and part.y_valid is not None and whole.x_valid is None
    assert part.x_train.shape == (38, 4) and part.x_valid.shape == (12, 4)
    assert part.name == "own" and "validation split" in part.source and "seed 7" in part.source
    rows = np.concatenate([part.x_train[:, 0], part.x_valid[:, 0]]) // 4
    assert sorted(rows) == list(range(50))
    np.testing.assert_array_equal(part.y_train, (part.x_train[:, 0] // 4) % 3)
    np.testing.assert_array_equal(part.y_valid, (part.x_valid[:, 0] // 4) % 3)
    assert set(part.y_valid) == {0, 1, 2}
    again, other = whole.split(12, seed=7).x_valid, whole.split(12, seed=8).x_valid
    assert again is not None and other is not None
    np.testing.assert_array_equal(part.x_valid, again)
    assert not np.array_equal(part.x_valid, other)


def test_split_keeps_the_test_rows() -> None:
    whole = own_dataset()
    part = whole.split(12)
    assert part.x_test is whole.x_test and part.y_test is whole.y_test


def test_the_same_rows_as_ever_are_held_out() -> None:
    """Published choices were made on them: recipes by 5,000 training images of seed 0, for example."""
    valid = own_dataset().split(6).x_valid
    assert valid is not None
    np.testing.assert_array_equal(valid[:, 0] // 4, np.random.default_rng(0).permutation(50)[:6])


@pytest.mark.parametrize("n_valid", [0, -1, 50, 51])
def test_split_refuses_impossible_sizes(n_valid: int) -> None:
    with pytest.raises(ValueError, match=rf"n_valid: got {n_valid}, expected a whole number (>= 1|<= 49)"):
        own_dataset().split(n_valid)


def test_split_refuses_other_types() -> None:
    for bad in (3.0, True, "3", None):
        with pytest.raises(TypeError, match=r"n_valid: got .*, expected a whole number"):
            own_dataset().split(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed: got -1"):
        own_dataset().split(3, seed=-1)


def test_validation_rows_are_taken_once() -> None:
    with pytest.raises(ValueError, match="'own' has 12 validation rows already; split the data set"):
        own_dataset().split(12).split(5)


def test_dataset_refuses_arrays_that_do_not_fit() -> None:
    x, y = np.zeros((4, 6), np.uint8), np.array([0, 1, 2, 0])
    with pytest.raises(ValueError, match="same N"):
        data.Dataset("own", x, y[:3], x, y, None, 3, "memory")
    with pytest.raises(ValueError, match="flatten"):
        data.Dataset("own", x.reshape(4, 2, 3), y, x, y, None, 3, "memory")
    with pytest.raises(ValueError, match=r"labels 0\.\.2; expected 0\.\.1"):
        data.Dataset("own", x, y, x, y, None, 2, "memory")
    with pytest.raises(ValueError, match="integer labels"):
        data.Dataset("own", x, y.astype(float), x, y, None, 3, "memory")
    with pytest.raises(ValueError, match="x_test has 5"):
        data.Dataset("own", x, y, x[:, :5], y, None, 3, "memory")
    with pytest.raises(ValueError, match="image_shape"):
        data.Dataset("own", x, y, x, y, (1, 2, 2), 3, "memory")
    with pytest.raises(ValueError, match="one of x_valid and y_valid, expected both or neither"):
        data.Dataset("own", x, y, x, y, None, 3, "memory", x_valid=x)
    with pytest.raises(ValueError, match="x_valid has 5"):
        data.Dataset("own", x, y, x, y, None, 3, "memory", x_valid=x[:, :5], y_valid=y)
    with pytest.raises(ValueError, match=r"y_valid holds labels 0\.\.9"):
        data.Dataset("own", x, y, x, y, None, 3, "memory", x_valid=x, y_valid=np.array([0, 1, 2, 9]))


# --- small tables ------------------------------------------------------------------------------


def test_digits_are_the_embedded_ones_in_mnist_format() -> None:
    from sklearn.datasets import load_digits

    digits, original = data.load("digits"), load_digits()
    assert digits.x_train.shape == (1437, 784) and digits.x_test.shape == (360, 784)
    assert digits.x_train.dtype == np.uint8 and digits.y_train.dtype == np.int64
    assert digits.image_shape == (1, 28, 28) and digits.n_classes == 10
    labels = np.concatenate([digits.y_train, digits.y_test])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(original.target))
    share = np.bincount(digits.y_test) / np.bincount(original.target)
    assert np.all(np.abs(np.bincount(digits.y_test) - np.bincount(original.target) * 360 / 1797) < 1), share
    images = np.concatenate([digits.x_train, digits.x_test]).reshape(-1, 28, 28)
    assert images.max() == 255 and not images[:, :4].any() and not images[:, :, 24:].any()
    # The corners of the scaled image are the corners of the 8x8 one, so they identify the values' scale.
    corners = np.sort(images[:, 4:24:19, 4:24:19].reshape(-1, 4), axis=0)
    expected = np.sort(np.rint(original.images[:, ::7, ::7] * 255 / 16).reshape(-1, 4), axis=0)
    np.testing.assert_array_equal(corners, expected)
    np.testing.assert_array_equal(digits.x_test, data.load("digits").x_test)


def test_digits_are_scaled_bilinearly() -> None:
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    first = np.rint(zoom(load_digits().images[0] * 255 / 16, 2.5, order=1)).astype(int)
    digits = data.load("digits")
    rows = np.concatenate([digits.x_train, digits.x_test]).reshape(-1, 28, 28)[:, 4:24, 4:24].astype(int)
    assert np.abs(rows - first).max(axis=(1, 2)).min() <= 1  # one row is image 0, up to rounding of halves


def test_diabetes_is_raw_and_split_in_five() -> None:
    table = data.load("diabetes")
    assert table.x_train.shape == (353, 10) and table.x_test.shape == (89, 10)
    assert table.y_train.shape == (353, 1) and table.n_classes == 0 and table.image_shape is None
    assert table.x_train.dtype == table.y_train.dtype == np.float32
    targets = np.concatenate([table.y_train, table.y_test])
    assert targets.mean() == pytest.approx(152.13348, abs=1e-4)  # Efron et al. 2004
    assert set(np.unique(table.x_train[:, 1])) == {1.0, 2.0}  # sex, unscaled


def test_boston_table_is_parsed_with_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.round(np.random.default_rng(0).uniform(0, 100, (11, 14)), 3)
    raw = "".join(" " + "  ".join(f"{v:.3f}" for v in row) + "\n" for row in table).encode()
    spec = FileSpec("housing.data", (len(raw),), hashlib.sha256(raw).hexdigest(), is_idx=False)
    pinned = FileSet("boston", "Boston housing", (spec,), ("boston",), (), 0)
    monkeypatch.setitem(sources.FILE_SETS, "boston", pinned)
    store(tmp_path / "boston", {"housing.data": raw}, packed=False)
    boston = data.load("boston", tmp_path)
    assert boston.x_train.shape == (8, 13) and boston.y_test.shape == (3, 1) and boston.n_classes == 0
    rows = np.concatenate([np.hstack([boston.x_train, boston.y_train]), np.hstack([boston.x_test, boston.y_test])])
    np.testing.assert_array_equal(rows[rows[:, 0].argsort()], table[table[:, 0].argsort()].astype(np.float32))
    assert "column B" in boston.warning
    store(tmp_path / "boston", {"housing.data": raw + b" "}, packed=False)
    with pytest.raises(data.DataError, match=r"housing\.data"):
        data.load("boston", tmp_path)


# --- the real files and the import -------------------------------------------------------------


@pytest.mark.skipif(not REAL_DATA, reason="SVD_NUMPY_DATA does not name a folder with the real data sets")
@pytest.mark.parametrize(("name", "first"), [("mnist", [5, 0, 4, 1, 9]), ("fashion-mnist", [9, 0, 0, 3, 0])])
def test_real_images(name: str, first: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_DATA", REAL_DATA)
    try:
        loaded = data.load(name, download=False)
    except data.MissingDataError:
        pytest.skip(f"{name} is not in the folder that SVD_NUMPY_DATA names")
    assert loaded.x_train.shape == (60_000, 784) and loaded.x_test.shape == (10_000, 784)
    assert loaded.y_train[:5].tolist() == first
    mean = {"mnist": 0.1307, "fashion-mnist": 0.2860}[name]
    assert loaded.x_train.mean() / 255 == pytest.approx(mean, abs=5e-5)


@pytest.mark.skipif(not REAL_DATA, reason="SVD_NUMPY_DATA does not name a folder with the real data sets")
def test_real_boston(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_DATA", REAL_DATA)
    try:
        boston = data.load("boston")
    except data.MissingDataError:
        pytest.skip("boston is not in the folder that SVD_NUMPY_DATA names")
    assert boston.x_train.shape == (404, 13) and boston.x_test.shape == (102, 13)
    targets = np.concatenate([boston.y_train, boston.y_test])
    assert targets.mean() == pytest.approx(22.5328, abs=1e-4) and targets.max() == 50.0


def test_importing_the_data_package_stays_light() -> None:
    heavy = "{'pooch', 'requests', 'sklearn', 'scipy', 'numba', 'matplotlib'}"
    code = f"import sys, svd_numpy.data as d; print(sorted({heavy} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
