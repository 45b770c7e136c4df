"""Data: hostile files, folder layouts, verification, the network's absence, and the small tables."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from svd_numpy import data
from svd_numpy.data import download as download_module
from svd_numpy.data import idx, sources
from svd_numpy.data.sources import FileSet, FileSpec

REAL_DATA = os.environ.get("SVD_NUMPY_DATA", "")
RAW_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Write IDX independently of the package's own header code."""
    dims = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + dims + array.tobytes()


def make_files(seed: int, n_train: int = 7, n_test: int = 3) -> dict[str, bytes]:
    """Return the raw content of a tiny image set, by file name."""
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(0, 256, (n_train, 4, 3), dtype=np.uint8),
        rng.integers(0, 10, n_train, dtype=np.uint8),
        rng.integers(0, 256, (n_test, 4, 3), dtype=np.uint8),
        rng.integers(0, 10, n_test, dtype=np.uint8),
    ]
    return {name: idx_bytes(array) for name, array in zip(RAW_NAMES, arrays, strict=True)}


def pin(
    name: str, files: dict[str, bytes], mirrors: tuple[str, ...] = ("http://mirror.invalid/",)
) -> FileSet:
    """Return a registry entry that pins these files."""
    specs = []
    for file, raw in files.items():
        n_dims = raw[3]
        shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(n_dims))
        packed = gzip.compress(raw, mtime=0)
        digest, gz_digest = hashlib.sha256(raw).hexdigest(), hashlib.sha256(packed).hexdigest()
        specs.append(FileSpec(file, shape, digest, len(packed), gz_digest))
    original = sources.FILE_SETS[name]
    return FileSet(name, original.title, tuple(specs), original.folders, mirrors, 10)


def store(folder: Path, files: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw, mtime=0))
        else:
            (folder / name).write_bytes(raw)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own empty cache and no network."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise urllib.error.URLError("no network in tests")

    folder = tmp_path / "cache"
    monkeypatch.setattr("pooch.os_cache", lambda _name: folder)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("SVD_NUMPY_DATA", raising=False)
    monkeypatch.delenv("SVD_NUMPY_OFFLINE", raising=False)
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Pin a tiny set as "mnist" and another as "fashion-mnist"; return the first one's files."""
    files = make_files(1)
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files))
    monkeypatch.setitem(sources.FILE_SETS, "fashion-mnist", pin("fashion-mnist", make_files(2)))
    return files


# --- IDX ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), packed=st.booleans(), seed=st.integers(0, 99)
)
def test_read_idx_returns_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], packed: bool, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.getbasetemp() / "roundtrip"  # no .gz: gzip is known by its content
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    read = data.read_idx(path)
    assert read.dtype == np.uint8 and read.flags.writeable and read.flags.c_contiguous
    np.testing.assert_array_equal(read, array)
    assert idx.idx_header(array.shape) + array.tobytes() == idx_bytes(array)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
PACKED = gzip.compress(GOOD, mtime=0)
HOSTILE = {
    "empty": (b"", "starts with"),
    "three bytes": (GOOD[:3], "starts with"),
    "web page": (b"<!DOCTYPE html><html>404", "starts with"),
    "wrong type": (b"\x00\x00\x0d" + GOOD[3:], "starts with"),
    "no dimension": (b"\x00\x00\x08\x00", "starts with"),
    "five dimensions": (b"\x00\x00\x08\x05" + bytes(20), "starts with"),
    "cut in header": (GOOD[:9], "ends inside its header"),
    "cut in values": (GOOD[:-1], "only 23 bytes follow"),
    "trailing byte": (GOOD + b"\x00", "more bytes follow"),
    "huge dimensions": (b"\x00\x00\x08\x04" + b"\xff" * 16 + b"abc", "at most"),
    "large claim": (b"\x00\x00\x08\x01" + (1 << 29).to_bytes(4, "big") + b"abc", "only 3 bytes follow"),
    "gzip cut short": (PACKED[:-12], "cut short"),
    "gzip without its checksum": (PACKED[:-8], "cut short"),
    "gzip header only": (PACKED[:10], "cut short"),
    "gzip wrong checksum": (PACKED[:-8] + b"\x00" * 4 + PACKED[-4:], "damaged"),
    "gzip flipped bits": (PACKED[:12] + bytes(b ^ 0xFF for b in PACKED[12:20]) + PACKED[20:], "damaged"),
    "gzip then junk": (PACKED + b"junk", "damaged"),
    "gzip of a cut file": (gzip.compress(GOOD[:-5]), "only 19 bytes follow"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_read_idx_refuses_hostile_files(tmp_path: Path, case: str) -> None:
    content, expected = HOSTILE[case]
    path = tmp_path / "victim-idx3-ubyte"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(data.DataError, match=expected) as caught:
            data.read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 8 << 20  # the largest case claims 512 MiB


def test_any_flipped_or_missing_byte_gives_an_array_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "fuzzed"
    for _ in range(300):
        blob = bytearray(PACKED if rng.random() < 0.6 else GOOD)
        for _ in range(rng.integers(1, 4)):
            blob[rng.integers(len(blob))] = rng.integers(256)
        path.write_bytes(blob[: rng.integers(1, len(blob) + 1)])
        with contextlib.suppress(data.DataError):
            assert data.read_idx(path).nbytes <= len(GOOD)


def test_gzip_bomb_is_unpacked_no_further_than_announced(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(GOOD[:16])
        for _ in range(64):
            out.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(data.DataError, match="more bytes follow"):
            data.read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size < 1 << 20
    assert peak < 4 << 20


def test_read_idx_names_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(data.DataError, match="cannot be read") as caught:
            data.read_idx(path)
        assert str(path) in str(caught.value)


# --- finding and verifying ------------------------------------------------------------------------


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


def test_dotted_names_and_gz_names_on_unpacked_files_are_accepted(
    tmp_path: Path, tiny: dict[str, bytes]
) -> None:
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


def test_search_order(
    tmp_path: Path, cache: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
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


# --- arguments ------------------------------------------------------------------------------------


def test_bad_arguments_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'cifar99'.*'auto', 'mnist', 'fashion-mnist', 'boston', 'digits'"):
        data.load("cifar99")
    with pytest.raises(TypeError, match="must be a str, got int"):
        data.load(3)  # type: ignore[arg-type]
    for name in data.NAMES:
        with pytest.raises(data.DataError, match=r"data_dir is .*absent.* not a folder"):
            data.load(name, tmp_path / "absent")
    with pytest.raises(data.DataError, match="data_dir is ''"):
        data.load("mnist", "")
    with pytest.raises(TypeError, match="must be a path"):
        data.load("mnist", 3)  # type: ignore[arg-type]
    monkeypatch.setenv("SVD_NUMPY_DATA", str(tmp_path / "absent"))
    with pytest.raises(data.DataError, match=r"SVD_NUMPY_DATA is .*absent"):
        data.load("auto")
    assert issubclass(data.MissingDataError, data.DataError) and issubclass(data.DataError, ValueError)


# --- network --------------------------------------------------------------------------------------


def test_offline_message_says_everything_needed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVD_NUMPY_DATA", str(tmp_path))
    monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
    with pytest.raises(data.MissingDataError) as caught:
        data.load("mnist")
    text = str(caught.value)
    for part in (
        str(tmp_path),
        str(cache),
        *RAW_NAMES,
        "9912422",
        "47040016",
        "data_dir=",
        "SVD_NUMPY_DATA=",
    ):
        assert part in text
    for part in (*sources.FILE_SETS["mnist"].mirrors, "SVD_NUMPY_OFFLINE is set", 'dataset="digits"'):
        assert part in text
    assert not cache.exists()


@pytest.mark.parametrize("forbid", ["argument", "environment"])
def test_the_network_can_be_forbidden(monkeypatch: pytest.MonkeyPatch, forbid: str) -> None:
    def never(*_args: Any) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(download_module, "download", never)
    if forbid == "environment":
        monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
        with pytest.raises(data.MissingDataError, match="not allowed"):
            data.fetch("mnist")
    with pytest.raises(data.MissingDataError, match="not allowed"):
        data.load("mnist", download=forbid == "environment")
    assert data.load("auto", download=forbid == "environment").name == "digits"


def test_auto_falls_back_to_digits_with_a_loud_note() -> None:
    fallback = data.load("auto")
    assert fallback.name == "digits" and fallback.x_train.shape == (1437, 784)
    assert "NOT MNIST" in fallback.warning and "no mirror answered" in fallback.warning
    assert data.load("digits").warning == ""
    with pytest.raises(data.MissingDataError, match="no mirror answered"):
        data.load("mnist")


def test_auto_takes_mnist_where_there_is_one(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    loaded = data.load("auto", store(tmp_path, tiny))
    assert loaded.name == "mnist" and loaded.warning == ""


def test_boston_is_never_downloaded() -> None:
    with pytest.raises(data.MissingDataError, match=r"there is none(?s:.*)housing\.data \(49082 bytes\)"):
        data.load("boston")
    with pytest.raises(ValueError, match="expected one of 'mnist', 'fashion-mnist'"):
        data.fetch("boston")


Serve = Callable[[dict[str, bytes]], str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serve given paths on the loop-back interface; everything else is 404."""
    pages: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            # Some servers label .gz files so; the client must not unpack them.
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr(urllib.request, "urlopen", opener.open)

    def start(content: dict[str, bytes]) -> str:
        pages.update(content)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


def gz_pages(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"/{prefix}/{name}.gz": gzip.compress(raw, mtime=0) for name, raw in files.items()}


def test_download_tries_mirrors_in_turn_and_leaves_nothing_half_written(
    cache: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(4)
    lying = {page: b"x" * len(body) for page, body in gz_pages("lying", files).items()}
    endless = {page: bytes(1 << 20) for page in gz_pages("endless", files)}
    base = serve({**lying, **endless, **gz_pages("good", files)})
    mirrors = tuple(f"{base}/{name}/" for name in ("absent", "lying", "endless"))
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files, mirrors))
    with pytest.raises(data.MissingDataError) as caught:
        data.load("mnist")
    for reason in ("absent/train-images", "HTTP 404", "lying/train-images", "hash", "sends more than"):
        assert reason in str(caught.value)
    assert tree(cache) == {}
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files, (*mirrors, f"{base}/good/")))
    assert data.load("auto").x_train.tobytes() == files[RAW_NAMES[0]][16:]
    assert set(tree(cache)) == {f"mnist/{name}.gz" for name in RAW_NAMES}
    monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
    assert data.load("mnist").name == "mnist"  # now from the cache


def test_fetch_repairs_a_damaged_cache(cache: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_files(5)
    base = serve(gz_pages("good", files))
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files, (f"{base}/good/",)))
    store(cache / "mnist", files)
    (cache / "mnist" / f"{RAW_NAMES[0]}.gz").write_bytes(b"damaged")
    with pytest.raises(data.DataError, match="starts with"):
        data.load("mnist")
    assert data.fetch("mnist") == cache / "mnist"
    assert data.load("mnist").x_train.tobytes() == files[RAW_NAMES[0]][16:]
    monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
    assert data.fetch("mnist") == cache / "mnist"  # intact: no network needed


def test_a_failed_write_to_the_cache_is_reported(
    cache: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(6)
    base = serve(gz_pages("good", files))
    monkeypatch.setitem(sources.FILE_SETS, "mnist", pin("mnist", files, (f"{base}/good/",)))
    cache.write_bytes(b"a file where the cache folder should be")
    with pytest.raises(data.MissingDataError, match="Download: failed"):
        data.load("mnist")


def test_waiting_for_a_silent_network_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_args: Any, **_kwargs: Any) -> None:
        release.wait(30)
        raise urllib.error.URLError("released")

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    assert not download_module.any_answers(["http://a.invalid/", "http://b.invalid/"], seconds=0.05)
    release.set()


# --- status and import ----------------------------------------------------------------------------


def test_status_tells_found_damaged_and_missing(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    store(tmp_path / "mnist", tiny)
    store(tmp_path / "fashion-mnist", make_files(2))
    (tmp_path / "fashion-mnist" / f"{RAW_NAMES[0]}.gz").write_bytes(b"?")
    rows = {row["name"]: row for row in data.status(tmp_path)}
    assert set(rows) == set(data.NAMES) - {"auto"}
    assert rows["mnist"]["verified"] and str(tmp_path / "mnist") in rows["mnist"]["where"]
    assert not rows["fashion-mnist"]["verified"] and "starts with" in rows["fashion-mnist"]["note"]
    assert rows["boston"]["where"] == "" and "nothing of it" in rows["boston"]["note"]
    assert rows["digits"]["verified"] and "embedded" in rows["digits"]["where"]
    assert len(data.status()) == 5


def test_import_copies_verified_files_into_the_cache(
    tmp_path: Path, cache: Path, tiny: dict[str, bytes]
) -> None:
    root = tmp_path / "given"
    store(root / "MNIST/raw", tiny, packed=False)
    store(root / "fashion-mnist", make_files(2))
    store(cache / "mnist", {RAW_NAMES[0]: b"stale"})
    assert data.import_folder(root) == ["mnist", "fashion-mnist"]
    expected = {f"mnist/{n}" for n in RAW_NAMES} | {f"fashion-mnist/{n}.gz" for n in RAW_NAMES}
    assert set(tree(cache)) == expected
    shutil.rmtree(root)
    assert data.load("mnist", download=False).x_train.tobytes() == tiny[RAW_NAMES[0]][16:]
    assert data.load("fashion-mnist", download=False).name == "fashion-mnist"
    assert data.import_folder(cache) == ["mnist", "fashion-mnist"]  # onto itself: no harm
    assert set(tree(cache)) == expected


def test_import_checks_the_copy_itself(
    tmp_path: Path, cache: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store(tmp_path / "given", tiny)
    monkeypatch.setattr(shutil, "copyfileobj", lambda _source, out: out.write(b"changed meanwhile"))
    with pytest.raises(data.DataError, match="starts with"):
        data.import_folder(root)
    assert tree(cache) == {}


def test_import_writes_nothing_if_anything_is_damaged(
    tmp_path: Path, cache: Path, tiny: dict[str, bytes]
) -> None:
    root = tmp_path / "given"
    store(root / "mnist", tiny)
    with pytest.raises(data.MissingDataError, match="holds no known data set"):
        data.import_folder(tmp_path / "given" / "..")
    store(root / "boston", {"housing.data": b"1 2 3"}, packed=False)
    with pytest.raises(data.DataError, match=r"housing\.data"):
        data.import_folder(root)
    assert not cache.exists()
    with pytest.raises(data.DataError, match="not a folder"):
        data.import_folder(tmp_path / "absent")


# --- Dataset --------------------------------------------------------------------------------------


def own_dataset(n: int = 50) -> data.Dataset:
    x = np.arange(n * 4, dtype=np.uint8).reshape(n, 4)
    y = np.arange(n) % 3
    return data.Dataset("own", x, y, x[:5], y[:5], (1, 2, 2), 3, "memory")


def test_split_partitions_the_training_rows() -> None:
    whole = own_dataset()
    part = whole.split(12, seed=7)
    assert part.x_train.shape == (38, 4) and part.x_test.shape == (12, 4)
    assert part.name == "own" and "validation split" in part.source and "seed 7" in part.source
    rows = np.concatenate([part.x_train[:, 0], part.x_test[:, 0]]) // 4
    assert sorted(rows) == list(range(50))
    np.testing.assert_array_equal(part.y_train, (part.x_train[:, 0] // 4) % 3)
    np.testing.assert_array_equal(part.y_test, (part.x_test[:, 0] // 4) % 3)
    assert set(part.y_test) == {0, 1, 2}
    np.testing.assert_array_equal(part.x_test, whole.split(12, seed=7).x_test)
    assert not np.array_equal(part.x_test, whole.split(12, seed=8).x_test)


@pytest.mark.parametrize("n_valid", [0, -1, 50, 51])
def test_split_refuses_impossible_sizes(n_valid: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 49"):
        own_dataset().split(n_valid)


def test_split_refuses_other_types() -> None:
    for bad in (3.0, True, "3", None):
        with pytest.raises(TypeError, match="must be an integer"):
            own_dataset().split(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed is -1"):
        own_dataset().split(3, seed=-1)


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


# --- small tables ---------------------------------------------------------------------------------


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
    rows = np.concatenate(
        [np.hstack([boston.x_train, boston.y_train]), np.hstack([boston.x_test, boston.y_test])]
    )
    np.testing.assert_array_equal(rows[rows[:, 0].argsort()], table[table[:, 0].argsort()].astype(np.float32))
    assert "column B" in boston.warning
    store(tmp_path / "boston", {"housing.data": raw + b" "}, packed=False)
    with pytest.raises(data.DataError, match=r"housing\.data"):
        data.load("boston", tmp_path)


# --- the real files and the import ----------------------------------------------------------------


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
