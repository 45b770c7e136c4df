"""Data over the network, and its absence; the status table; importing a folder."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from data_tools import RAW_NAMES, empty_cache, make_files, pin, store, tiny_sets, tree  # noqa: F401 - fixtures

from svd_numpy import data
from svd_numpy.data import download as download_module
from svd_numpy.data import sources

# --- network -----------------------------------------------------------------------------------


def test_offline_message_says_everything_needed(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert_usual_modes(cache)
    assert data.load("mnist").x_train.tobytes() == files[RAW_NAMES[0]][16:]
    monkeypatch.setenv("SVD_NUMPY_OFFLINE", "1")
    assert data.fetch("mnist") == cache / "mnist"  # intact: no network needed


def test_a_failed_write_to_the_cache_is_reported(cache: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_where_no_thread_can_start_one_mirror_is_asked_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a browser's Python, where "auto" must still end with the embedded digits."""
    asked = []

    def refuse(request: urllib.request.Request, **_options: Any) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no network")

    def never(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(threading.Thread, "start", never)
    assert not download_module.any_answers(["http://a.invalid/", "http://b.invalid/"], seconds=0.05)
    assert asked == ["http://a.invalid/", "http://b.invalid/"]
    assert data.load("auto").name == "digits"


# --- status and import -------------------------------------------------------------------------


def test_status_tells_found_damaged_and_missing(tmp_path: Path, tiny: dict[str, bytes]) -> None:
    store(tmp_path / "mnist", tiny)
    store(tmp_path / "fashion-mnist", make_files(2))
    (tmp_path / "fashion-mnist" / f"{RAW_NAMES[0]}.gz").write_bytes(b"?")
    rows = {row["name"]: row for row in data.status(tmp_path)}
    assert set(rows) == set(data.NAMES) - {"auto", "idx"}
    assert rows["mnist"]["verified"] and str(tmp_path / "mnist") in rows["mnist"]["where"]
    assert not rows["fashion-mnist"]["verified"] and "starts with" in rows["fashion-mnist"]["note"]
    assert rows["boston"]["where"] == "" and "has none of its files" in rows["boston"]["note"]
    assert rows["digits"]["verified"] and "embedded" in rows["digits"]["where"]
    assert len(data.status()) == len(rows)


def assert_usual_modes(cache: Path) -> None:
    """Files in the cache are as readable for others as any file that this user makes."""
    (usual := cache / "usual").touch()
    assert {path.stat().st_mode for path in cache.rglob("*") if path.is_file()} == {usual.stat().st_mode}
    usual.unlink()


def test_import_into_a_full_disk_names_the_file_and_leaves_nothing(
    tmp_path: Path, cache: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, old = store(tmp_path / "given", tiny), cache / "mnist" / (".tmp-" + "0" * 16)
    old.parent.mkdir(parents=True)
    old.write_bytes(b"left by a process that was killed")
    os.utime(old, (0, 0))

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"could not write .*train-images.*Free some"):
        patch.setattr(os, "fsync", full)
        data.import_folder(root)
    assert set(tree(cache)) == {str(old.relative_to(cache))}
    data.import_folder(root)
    assert set(tree(cache)) == {f"mnist/{name}.gz" for name in RAW_NAMES}


def test_import_copies_verified_files_into_the_cache(tmp_path: Path, cache: Path, tiny: dict[str, bytes]) -> None:
    root = tmp_path / "given"
    store(root / "MNIST/raw", tiny, packed=False)
    store(root / "fashion-mnist", make_files(2))
    store(cache / "mnist", {RAW_NAMES[0]: b"stale"})
    assert data.import_folder(root) == ["mnist", "fashion-mnist"]
    expected = {f"mnist/{n}" for n in RAW_NAMES} | {f"fashion-mnist/{n}.gz" for n in RAW_NAMES}
    assert set(tree(cache)) == expected
    assert_usual_modes(cache)
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


def test_import_writes_nothing_if_anything_is_damaged(tmp_path: Path, cache: Path, tiny: dict[str, bytes]) -> None:
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
