"""Checkpoints that are damaged or hostile: never loaded wrong, always a CheckpointError."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_tools import assert_same, flip, make_arrays, make_state

from svd_numpy.files import safe_arrays
from svd_numpy.files.checkpoint import load, save
from svd_numpy.files.safe_arrays import CheckpointError, load_model


def test_bit_flips_never_load_wrong(tmp_path: Path) -> None:
    path = save(tmp_path, 5, make_arrays(), make_state(5))
    rng = np.random.default_rng(2)
    refused = 0
    for name in ("manifest.json", "arrays.safetensors"):
        good = (path / name).read_bytes()
        for _ in range(200):
            flip(path / name, rng)
            try:
                found = load(path)
            except CheckpointError:
                refused += 1
            else:  # for instance "\\u00e9" written as "\\u00E9": the same content
                assert name == "manifest.json" and found.state == make_state(5) and found.step == 5
                assert_same(found.arrays, make_arrays())
            (path / name).write_bytes(good)
    assert refused > 390


def test_block_swaps_and_truncations(tmp_path: Path) -> None:
    path = save(tmp_path, 5, make_arrays(n=300), make_state(5))
    for name in ("manifest.json", "arrays.safetensors"):
        good = (path / name).read_bytes()
        damaged = [good[:n] for n in np.linspace(0, len(good) - 2, 60).astype(int)]
        damaged += [good + b"x", good[:8] * 2, good[64:128] + good[:64] + good[128:], bytes(len(good))]
        for content in damaged:
            (path / name).write_bytes(content)
            with pytest.raises(CheckpointError, match=re.escape(str(path))):
                load(path)
        (path / name).write_bytes(good)
    assert load(path).step == 5


def test_newest_damaged_falls_back_and_says_so(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, make_arrays(step), {}, keep=3)
    flip(tmp_path / "ckpt-00000003" / "arrays.safetensors", np.random.default_rng(0))
    (tmp_path / "ckpt-00000002" / "manifest.json").unlink()
    found = load(tmp_path)
    assert found.step == 1 and len(found.skipped) == 2
    assert "ckpt-00000003" in found.skipped[0] and "SHA-256" in found.skipped[0]
    assert "ckpt-00000002" in found.skipped[1] and "manifest.json" in found.skipped[1]
    assert_same(found.arrays, make_arrays(1))
    shutil.rmtree(tmp_path / "ckpt-00000001")
    with pytest.raises(CheckpointError, match=r"no undamaged checkpoint.*00000003.*00000002"):
        load(tmp_path)


def test_a_checkpoint_under_another_name(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {}, {"a": 1})
    shutil.copytree(path, tmp_path / "best")
    assert load(tmp_path / "best").state == {"a": 1}
    path.rename(tmp_path / "ckpt-00000002")
    with pytest.raises(CheckpointError, match="differs from the step in the folder's name"):
        load(tmp_path / "ckpt-00000002")


# ---- hostile files: every hash is right ----


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and sign it anew, by the documented rule."""
    content = json.loads((path / "manifest.json").read_text())
    del content["sha256"]
    change(content)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    content["sha256"] = hashlib.sha256(canonical).hexdigest()
    (path / "manifest.json").write_text(json.dumps(content))


def test_a_new_signature_alone_is_no_fault(tmp_path: Path) -> None:
    path = save(tmp_path, 1, make_arrays(), {})
    rewrite(path, lambda m: m["state"].update(a=1))
    assert load(path).state == {"a": 1}


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "format": (lambda m: m.update(format="other"), "no svd_numpy checkpoint"),
    "version": (lambda m: m.update(version=2), "version 2"),
    "bool step": (lambda m: m.update(step=True), "step True"),
    "float step": (lambda m: m.update(step=1.0), "step 1.0"),
    "huge step": (lambda m: m.update(step=10**300), "step 1000"),
    "missing": (lambda m: m.pop("state"), "missing or unknown"),
    "extra": (lambda m: m.update(more=1), "missing or unknown"),
    "state": (lambda m: m.update(state=[1]), "state"),
    "traversal": (lambda m: m["files"].update({"../../etc/passwd": {}}), "arrays.safetensors and nothing else"),
    "renamed": (lambda m: m.update(files={"../x": m["files"]["arrays.safetensors"]}), "safetensors and nothing else"),
    "files": (lambda m: m.update(files=[]), "arrays.safetensors and nothing else"),
    "file entry": (lambda m: m["files"].update({"arrays.safetensors": 3}), "cannot load"),
    "file keys": (lambda m: m["files"]["arrays.safetensors"].update(x=1), "bytes and sha256"),
    "file size": (lambda m: m["files"]["arrays.safetensors"].update(bytes=10**18), "does not fit the array shapes"),
    "float size": (lambda m: m["files"]["arrays.safetensors"].update(bytes=1e400), "finite"),
    "array lost": (lambda m: m["arrays"].pop("empty"), "different arrays"),
    "array dtype": (lambda m: m["arrays"]["scalar"].update(dtype="int64"), "different arrays"),
    "unknown dtype": (lambda m: m["arrays"]["scalar"].update(dtype="object"), "unknown type"),
    "list dtype": (lambda m: m["arrays"]["scalar"].update(dtype=[]), "unknown type"),
    "shape": (lambda m: m["arrays"]["special"].update(shape=[1, 5]), "different arrays"),
    "huge shape": (lambda m: m["arrays"]["special"].update(shape=[2**62]), "does not fit the array shapes"),
    "negative shape": (lambda m: m["arrays"]["special"].update(shape=[-5]), "no valid shape"),
    "float shape": (lambda m: m["arrays"]["special"].update(shape=[5.0]), "no valid shape"),
    "long shape": (lambda m: m["arrays"]["special"].update(shape=[10**9] * 10**5), "no valid shape"),
    "arrays": (lambda m: m.update(arrays=[1]), "cannot load"),
    "array entry": (lambda m: m["arrays"].update(scalar=None), "cannot load"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_manifest(tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    path = save(tmp_path, 1, make_arrays(), {})
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message):
        load(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": 1, "a": 1}',
        b'{"a": NaN}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b" " * (safe_arrays.MAX_JSON_BYTES + 1),
    ],
)
def test_manifest_that_is_no_manifest(tmp_path: Path, text: bytes) -> None:
    path = save(tmp_path, 1, {}, {})
    (path / "manifest.json").write_bytes(text)
    with pytest.raises(CheckpointError):
        load(path)


def set_entry(entry: dict[str, Any], manifest: dict[str, Any]) -> None:
    manifest["files"] = {"arrays.safetensors": entry}


def test_hostile_headers(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"a": np.zeros(2)}, {})
    headers: list[Any] = [
        {"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F64", "shape": [2], "data_offsets": [8, 24]}},
        {"a": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F64", "shape": [2]}},
        {"b": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}},
        {"a": 1},
        [],
    ]
    for header in headers:
        text = json.dumps(header).encode()
        blob = len(text).to_bytes(8, "little") + text + bytes(16)
        (path / "arrays.safetensors").write_bytes(blob)
        entry = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
        rewrite(path, partial(set_entry, entry))
        with pytest.raises(CheckpointError):
            load(path)
        (tmp_path / "m.safetensors").write_bytes(blob)
        with pytest.raises(CheckpointError):
            load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("depth", [100, 450, 900, 960, 980, 1000, 1100])
def test_deep_nesting_never_escapes_the_error_class(tmp_path: Path, depth: int) -> None:
    path = save(tmp_path, 1, {}, {"deep": 0})
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"deep": 0', '"deep": ' + "[" * depth + "]" * depth))
    with pytest.raises(CheckpointError):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX links and pipes")
def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    path = save(tmp_path / "run", 1, make_arrays(), {})
    for name in ("arrays.safetensors", "manifest.json"):
        outside = tmp_path / name
        (path / name).rename(outside)
        (path / name).symlink_to(outside)
        with pytest.raises(CheckpointError):
            load(path)
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises(CheckpointError, match="not a regular file"):
            load(path)
        (path / name).unlink()
        (path / name).mkdir()
        with pytest.raises(CheckpointError, match="not a regular file"):
            load(path)
        (path / name).rmdir()
        outside.rename(path / name)
    (tmp_path / "run" / "ckpt-00000002").symlink_to(path)  # nor is a linked folder taken for a checkpoint
    assert load(tmp_path / "run").path == path
