"""CIFAR-10 and CIFAR-100: folder and archive, incomplete test files, damage, and hostile archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_tools import empty_cache, tree  # noqa: F401 - fixtures
from numpy.typing import NDArray

from svd_numpy import data
from svd_numpy.cli import main as cli
from svd_numpy.data import cifar, pinned
from svd_numpy.data import download as download_module

REAL_DATA = os.environ.get("SVD_NUMPY_DATA", "")
FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
N_TRAIN, N_TEST = 6, 4  # records of a training file and of the test file
Files = dict[str, bytes]


def records(rng: np.random.Generator, n: int, name: str) -> NDArray[np.uint8]:
    table = rng.integers(0, 256, (n, 3073 if name == "cifar10" else 3074), dtype=np.uint8)
    if name == "cifar10":
        table[:, 0] = rng.integers(0, 10, n)
    else:
        table[:, 0], table[:, 1] = rng.integers(0, 20, n), rng.integers(20, 100, n)
    return table


def make_set(name: str, seed: int = 0) -> Files:
    rng = np.random.default_rng(seed)
    specs = pinned.FILE_SETS[name].files
    return {s.name: records(rng, N_TEST if s is specs[-1] else N_TRAIN, name).tobytes() for s in specs}


def pin(name: str, files: Files, **changes: Any) -> pinned.FileSet:
    """Return a registry entry that pins these files."""
    original = pinned.FILE_SETS[name]
    width = original.files[0].shape[1]
    specs = tuple(
        replace(s, shape=(len(files[s.name]) // width, width), sha256=hashlib.sha256(files[s.name]).hexdigest())
        for s in original.files
    )
    return replace(original, files=specs, **changes)


@pytest.fixture(name="tiny")
def tiny_sets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Files]:
    """Pin tiny sets as "cifar10" and "cifar100"; return their files."""
    sets = {name: make_set(name) for name in FOLDERS}
    for name, files in sets.items():
        monkeypatch.setitem(pinned.FILE_SETS, name, pin(name, files))
    return sets


def store(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def tar_bytes(files: Files, folder: str = "", members: list[tarfile.TarInfo] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members or []:
            tar.addfile(member)
        for name, raw in files.items():
            info = tarfile.TarInfo(f"{folder}{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def check_content(loaded: data.Dataset, files: Files, name: str) -> None:
    """Compare with a slow reading, record by record."""
    *train, test = files.values()
    labels, n_classes = (1, 10) if name == "cifar10" else (2, 100)
    assert (loaded.name, loaded.image_shape, loaded.n_classes) == (name, (3, 32, 32), n_classes)
    assert loaded.x_train.dtype == loaded.x_test.dtype == np.uint8
    assert loaded.y_train.dtype == loaded.y_test.dtype == np.int64
    for x, y, raw in ((loaded.x_train, loaded.y_train, b"".join(train)), (loaded.x_test, loaded.y_test, test)):
        width = 3072 + labels
        assert x.shape == (len(raw) // width, 3072) and x.flags.c_contiguous and x.flags.writeable
        for row in range(len(x)):
            record = raw[row * width : (row + 1) * width]
            assert y[row] == record[labels - 1] and x[row].tobytes() == record[labels:]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_layout_of_the_folder(tmp_path: Path, tiny: dict[str, Files], name: str) -> None:
    for number, layout in enumerate((name, FOLDERS[name], f"{name}/{FOLDERS[name]}", "", "raw")):
        root = tmp_path / str(number)
        store(root / layout, tiny[name] | {"batches.meta.txt": b"airplane\n"})
        before = tree(root)
        loaded = data.load(name, root)
        check_content(loaded, tiny[name], name)
        assert loaded.warning == "" and str(root) in loaded.source and "SHA-256 verified" in loaded.source
        assert tree(root) == before


@pytest.mark.parametrize(("pack", "end"), [(gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_packed_files(tmp_path: Path, tiny: dict[str, Files], pack: Any, end: str) -> None:
    store(tmp_path, {name + end: pack(raw) for name, raw in tiny["cifar10"].items()})
    check_content(data.load("cifar10", tmp_path), tiny["cifar10"], "cifar10")
    packed = (tmp_path / f"data_batch_3.bin{end}").read_bytes()
    (tmp_path / f"data_batch_3.bin{end}").write_bytes(packed[:-20])
    with pytest.raises(data.DataError, match=rf"data_batch_3\.bin{end}: the (gzip|xz) stream is cut short"):
        data.load("cifar10", tmp_path)
    (tmp_path / f"data_batch_3.bin{end}").write_bytes(packed[:40] + bytes(b ^ 0xFF for b in packed[40:]))
    with pytest.raises(data.DataError, match=rf"data_batch_3\.bin{end}: the (gzip|xz) stream is damaged"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("prefix", ["FOLDER/", "./FOLDER/", ""])
def test_the_archive_is_read_where_it_lies(tmp_path: Path, tiny: dict[str, Files], name: str, prefix: str) -> None:
    """In any order of its files, with others among them, and packed in any way."""
    turned = dict(reversed((tiny[name] | {"readme.html": b"<html>"}).items()))
    raw = tar_bytes(turned, prefix.replace("FOLDER", FOLDERS[name]))
    for number, content in enumerate((gzip.compress(raw), raw)):
        root = store(tmp_path / str(number), {ARCHIVES[name]: content})
        loaded = data.load(name, root)
        check_content(loaded, tiny[name], name)
        assert set(tree(root)) == {ARCHIVES[name]}


def test_pinned_numbers_are_those_of_the_format() -> None:
    for name, train, width in (("cifar10", [10_000] * 5, 3073), ("cifar100", [50_000], 3074)):
        file_set = pinned.FILE_SETS[name]
        assert [spec.shape for spec in file_set.files] == [(n, width) for n in (*train, 10_000)]
        assert all(len(spec.sha256) == 64 for spec in file_set.files)
        assert file_set.archive is not None and len(file_set.archive.gz_sha256) == 64


# --- an incomplete test file -------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["folder", "archive", "other name"])
def test_fewer_test_images_are_taken_and_said(tmp_path: Path, tiny: dict[str, Files], packed: str) -> None:
    files = tiny["cifar10"] | {"test_batch.bin": tiny["cifar10"]["test_batch.bin"][: 3 * 3073]}
    if packed == "archive":
        store(tmp_path, {ARCHIVES["cifar10"]: gzip.compress(tar_bytes(files))})
    elif packed == "folder":
        store(tmp_path, files)
    else:
        *train, test = files.items()
        store(tmp_path, dict(train) | {"test_batch_9980.bin.xz": lzma.compress(test[1])})
    loaded = data.load("cifar10", tmp_path)
    check_content(loaded, files, "cifar10")
    assert "3 of 4 test images are used" in loaded.warning and "25 percentage points" in loaded.warning
    assert "training images SHA-256 verified" in loaded.source


def test_a_whole_test_file_is_preferred(tmp_path: Path, tiny: dict[str, Files]) -> None:
    store(tmp_path, tiny["cifar10"] | {"test_batch_9980.bin": b"", "test_batch_9980.bin.gz": b""})
    assert data.load("cifar10", tmp_path).warning == ""


# --- damage ------------------------------------------------------------------------------------


def spoil(raw: bytes, kind: str) -> bytes:
    changes = {
        "pixel": raw[:-1] + bytes([raw[-1] ^ 1]),
        "cut": raw[:-1],
        "record lost": raw[:-3073],
        "longer": raw + b"\0",
        "record added": raw + raw[:3073],
        "label": bytes([10]) + raw[1:],
        "empty": b"",
    }
    return changes[kind]


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize(
    ("file", "kind", "words"),
    [
        ("data_batch_2.bin", "pixel", "SHA-256"),
        ("data_batch_2.bin", "cut", "5 whole records and 3072 bytes, it is cut short"),
        ("data_batch_2.bin", "record lost", "5 whole records and 0 bytes, it is cut short"),
        ("data_batch_2.bin", "longer", "more than 18438 bytes"),
        ("data_batch_2.bin", "record added", "more than 18438 bytes"),
        ("data_batch_2.bin", "label", r"label 10; expected 0\.\.9"),
        ("data_batch_2.bin", "empty", "0 whole records"),
        ("test_batch.bin", "pixel", "SHA-256"),
        ("test_batch.bin", "cut", "3 whole records and 3072 bytes"),
        ("test_batch.bin", "longer", "more than 12292 bytes"),
        ("test_batch.bin", "empty", "0 whole records"),
    ],
)
def test_a_damaged_file_is_named_with_a_remedy(
    tmp_path: Path, tiny: dict[str, Files], file: str, kind: str, words: str, archive: bool
) -> None:
    files = tiny["cifar10"] | {file: spoil(tiny["cifar10"][file], kind)}
    store(tmp_path, {ARCHIVES["cifar10"]: tar_bytes(files)} if archive else files)
    with pytest.raises(data.DataError, match=words) as caught:
        data.load("cifar10", tmp_path)
    text = str(caught.value)
    assert str(tmp_path) in text and file in text and "Fetch or copy the file again" in text
    rows = [row for row in data.status(tmp_path) if row["name"] == "cifar10"]
    assert len(rows) == 1 and rows[0]["where"] and not rows[0]["verified"] and rows[0]["note"] == text


def test_labels_of_cifar100_are_both_checked(tmp_path: Path, tiny: dict[str, Files]) -> None:
    raw = tiny["cifar100"]["train.bin"]
    for content, words in ((b"\x14" + raw[1:], r"label 20; expected 0\.\.19"), (raw[:1] + b"d" + raw[2:], "label 100")):
        with pytest.raises(data.DataError, match=words):
            data.load("cifar100", store(tmp_path, tiny["cifar100"] | {"train.bin": content}))


def test_files_in_each_others_place_are_recognised(tmp_path: Path, tiny: dict[str, Files]) -> None:
    files = tiny["cifar10"] | {"data_batch_1.bin": tiny["cifar10"]["data_batch_4.bin"]}
    with pytest.raises(data.DataError, match=r"data_batch_1\.bin: this is data_batch_4\.bin; expected"):
        data.load("cifar10", store(tmp_path, files))


# --- hostile archives --------------------------------------------------------------------------


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_an_archive_writes_nothing_and_follows_nothing(tmp_path: Path, tiny: dict[str, Files]) -> None:
    secret = store(tmp_path / "secret", {"data_batch_1.bin": tiny["cifar10"]["data_batch_1.bin"]})
    others = dict(list(tiny["cifar10"].items())[1:])
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        link = member("x/data_batch_1.bin", type=kind, linkname=str(secret / "data_batch_1.bin"))
        root = store(tmp_path / "given", {ARCHIVES["cifar10"]: tar_bytes(others, members=[link])})
        with pytest.raises(data.DataError, match=r"lacks data_batch_1\.bin"):
            data.load("cifar10", root)
    before = set(tree(tmp_path))
    for prefix in ("../../", "/tmp/"):  # only a name: nothing is extracted
        store(root, {ARCHIVES["cifar10"]: tar_bytes(tiny["cifar10"], prefix)})
        check_content(data.load("cifar10", root), tiny["cifar10"], "cifar10")
    assert set(tree(tmp_path)) == before


def hostile(good: Files) -> dict[str, tuple[bytes, str]]:
    raw = tar_bytes(good, "x/")
    packed = gzip.compress(raw)
    loop = member("x", type=tarfile.GNUTYPE_LONGNAME, size=0).tobuf() * 1500
    return {
        "empty": (b"", "tar archive"),
        "no tar": (b"<!DOCTYPE html>" * 100, "tar archive"),
        "cut tar": (raw[:40_000], "tar archive|cut short"),
        "header only": (raw[:512], "tar archive|cut short"),
        "cut gzip": (packed[:-500], "cut short"),
        "damaged gzip": (packed[:2000] + bytes(500) + packed[2500:], "damaged|SHA-256"),
        "damaged header": (raw[:148] + b"99999999" + raw[156:], "tar archive"),
        "a file twice": (
            tar_bytes(good | {"y/test_batch.bin": good["test_batch.bin"]}),
            r"holds test_batch\.bin twice",
        ),
        "many files": (tar_bytes(good, members=[member(f"x{i}") for i in range(101)]), "more than 100 files"),
        "endless names": (loop + raw, "tar archive|more than"),
        "bomb of zeros": (gzip.compress(tar_bytes({"bomb": bytes(30_000_000)} | good)), "unpacks to more than"),
        "huge claim": (member("bomb", size=2**40).tobuf(tarfile.GNU_FORMAT) + raw, "claims a file larger than it is"),
        "huge wanted": (
            member("data_batch_1.bin", size=2**40).tobuf(tarfile.GNU_FORMAT) + raw + bytes(3_000_000),
            "more than 18438 bytes",
        ),
        "negative size": (member("bomb", size=-(2**40)).tobuf(tarfile.GNU_FORMAT) + raw, "tar archive"),
        "bad pax": (
            member("p", type=tarfile.XHDTYPE, size=20).tobuf() + b"99999999999 size=x\n\n".ljust(512, b"\0") + raw,
            "Fetch or copy",  # what Python makes of it changes from version to version
        ),
    }


@pytest.mark.parametrize("case", hostile(make_set("cifar10")))
def test_hostile_archives_are_refused(tmp_path: Path, tiny: dict[str, Files], case: str) -> None:
    content, words = hostile(tiny["cifar10"])[case]
    store(tmp_path, {ARCHIVES["cifar10"]: content})
    tracemalloc.start()
    try:
        with pytest.raises(data.DataError, match=words) as caught:
            data.load("cifar10", tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ARCHIVES["cifar10"] in str(caught.value)
    assert peak < 30_000_000
    assert set(tree(tmp_path)) == {ARCHIVES["cifar10"]}


def test_random_damage_is_noticed_or_harmless(tmp_path: Path, tiny: dict[str, Files]) -> None:
    raw, rng = tar_bytes(tiny["cifar10"], "x/"), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoilt = bytearray(raw)
        for at in rng.integers(0, len(raw) if rng.random() < 0.5 else 512, rng.integers(1, 4)):
            spoilt[at] = rng.integers(256)
        store(tmp_path, {ARCHIVES["cifar10"]: bytes(spoilt)})
        try:
            loaded = data.load("cifar10", tmp_path)
        except data.DataError:
            refused += 1
        else:
            check_content(loaded, tiny["cifar10"], "cifar10")
    assert refused > 100


# --- the rest of the door ----------------------------------------------------------------------


def test_missing_files_are_explained(tmp_path: Path, tiny: dict[str, Files]) -> None:
    with pytest.raises(data.MissingDataError) as caught:
        data.load("cifar10", download=False)
    for words in (
        "CIFAR-10 (binary version) was not found",
        "test_batch.bin",
        "or all of them in cifar-10-binary.tar.gz (170052171 bytes)",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz\n",
        "FOLDER/cifar10/",
    ):
        assert words in str(caught.value)
    store(tmp_path, dict(list(tiny["cifar10"].items())[1:]))
    with pytest.raises(data.MissingDataError, match=r"lacks data_batch_1\.bin"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("archive", [False, True])
def test_status_and_import(
    tmp_path: Path, cache: Path, tiny: dict[str, Files], capsys: pytest.CaptureFixture[str], archive: bool
) -> None:
    for name, files in tiny.items():
        content = {ARCHIVES[name]: gzip.compress(tar_bytes(files))} if archive else files
        store(tmp_path / "given" / name, content)
    rows = {row["name"]: row for row in data.status(tmp_path / "given")}
    assert rows["cifar10"]["verified"] and rows["cifar100"]["verified"]
    assert data.import_folder(tmp_path / "given") == ["cifar10", "cifar100"]
    assert tree(cache) == tree(tmp_path / "given")
    check_content(data.load("cifar100", download=False), tiny["cifar100"], "cifar100")
    cli.main(["data", "status"])
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["cifar10"] == lines["cifar100"] == "ok"


def test_the_archive_is_downloaded_whole(cache: Path, tiny: dict[str, Files], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(tar_bytes(tiny["cifar100"], "cifar-100-binary/"))
    archive = pinned.FILE_SETS["cifar100"].archive
    assert archive is not None
    spec = replace(archive, gz_bytes=len(packed), gz_sha256=hashlib.sha256(packed).hexdigest())
    pinned_set = pin("cifar100", tiny["cifar100"], archive=spec, mirrors=("http://mirror.invalid/",))
    monkeypatch.setitem(pinned.FILE_SETS, "cifar100", pinned_set)
    asked: list[str] = []

    def answer(request: Any, timeout: float) -> io.BytesIO:
        asked.append(request.full_url)
        return io.BytesIO(packed)

    monkeypatch.setattr(download_module.urllib.request, "urlopen", answer)
    check_content(data.load("cifar100"), tiny["cifar100"], "cifar100")
    assert set(asked) == {"http://mirror.invalid/cifar-100-binary.tar.gz"}
    assert tree(cache) == {"cifar100/cifar-100-binary.tar.gz": packed}
    asked.clear()
    assert data.fetch("cifar100") == cache / "cifar100" and not asked


@pytest.mark.skipif(not REAL_DATA, reason="SVD_NUMPY_DATA does not name a folder with the real data sets")
@pytest.mark.parametrize(
    ("name", "mean"), [("cifar10", (0.4914, 0.4822, 0.4465)), ("cifar100", (0.5071, 0.4865, 0.4409))]
)
def test_real_images(name: str, mean: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_DATA", REAL_DATA)
    try:
        loaded = data.load(name, download=False)
    except data.MissingDataError:
        pytest.skip(f"{name} is not in the folder that SVD_NUMPY_DATA names")
    assert loaded.x_train.shape == (50_000, 3072) and loaded.image_shape == cifar.IMAGE_SHAPE
    assert len(np.unique(np.bincount(loaded.y_train, minlength=loaded.n_classes))) == 1
    assert bool(loaded.warning) == (len(loaded.x_test) < 10_000)
    by_channel = loaded.x_train.reshape(-1, 3, 1024).mean(axis=(0, 2), dtype=np.float64) / 255
    np.testing.assert_allclose(by_channel, mean, atol=1e-4)
