"""Checkpoints: exact round trips, crashes at every system call, damage of every kind."""

import builtins
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svd_numpy import checkpoint
from svd_numpy.checkpoint import CheckpointError, latest, load, load_model, save, save_model

Arrays = dict[str, np.ndarray]


def make_arrays(seed: int = 0, n: int = 5) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "theta": rng.standard_normal((n, 3)).astype(np.float32),
        "fortran": np.asfortranarray(rng.standard_normal((2, 3, 4))),
        "strided": np.arange(10, dtype=np.int64)[::-2],
        "bytes": rng.integers(0, 256, 7, dtype=np.uint8),
        "mask": rng.random((3, 2)) < 0.5,
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(-0.0),
        "special": np.array([np.nan, np.inf, -np.inf, 5e-324, -0.0]),
    }


def make_state(step: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "epoch": step,
        "lr": 0.1 + 0.2,
        "tiny": -0.0,
        "none": None,
        "on": True,
        "é\ud800": [1, [2.5, "x"]],
    } | {"rng": rng.bit_generator.state}


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = save(tmp_path / "run", 7, make_arrays(), make_state(7))
    found = load(path)
    assert path.name == "ckpt-00000007" and names(path) == ["arrays.safetensors", "manifest.json"]
    assert found.step == 7 and found.path == path and found.skipped == []
    assert_same(found.arrays, make_arrays())
    assert found.state == make_state(7)
    assert list(found.state) == list(make_state(7))
    assert all(array.flags.writeable and array.flags.c_contiguous for array in found.arrays.values())
    assert str(found.state["tiny"]) == "-0.0"
    rng = np.random.default_rng(0)
    rng.bit_generator.state = found.state["rng"]
    assert rng.random() == np.random.default_rng(7).random()


def test_no_arrays_and_no_state(tmp_path: Path) -> None:
    found = load(save(tmp_path, 0, {}, {}))
    assert found.arrays == {} and found.state == {} and found.step == 0


def test_arrays_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    assert_same(load_file(save(tmp_path, 1, make_arrays(), {}) / "arrays.safetensors"), make_arrays())


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, step, {}, {}, keep=3)
    assert names(tmp_path) == ["ckpt-00000002", "ckpt-00000003", "ckpt-00000004"]
    assert latest(tmp_path) == tmp_path / "ckpt-00000004"


def test_prune_after_a_fall_back_keeps_what_was_just_saved(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, step, {}, {})
    (tmp_path / "ckpt-00000020" / "manifest.json").unlink()
    for step in (11, 12, 13):
        save(tmp_path, step, {}, {})
    assert names(tmp_path) == ["ckpt-00000012", "ckpt-00000013", "ckpt-00000020"]
    assert load(tmp_path).step == 13


def test_same_step_is_replaced(tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path, 3, make_arrays(seed), {"seed": seed})
    assert names(tmp_path) == ["ckpt-00000003"]
    assert_same(load(tmp_path).arrays, make_arrays(1))


def test_leftovers_are_cleared_and_other_files_are_not(tmp_path: Path) -> None:
    save(tmp_path, 1, {}, {"a": 1})
    (tmp_path / "ckpt-00000001").rename(tmp_path / ".old-ckpt-00000001")  # a kill between two renames
    assert latest(tmp_path) == tmp_path / ".old-ckpt-00000001"
    assert load(tmp_path).state == {"a": 1}
    (tmp_path / ".tmp-ckpt-00000002").mkdir()
    (tmp_path / ".tmp-ckpt-00000002" / "x").touch()
    (tmp_path / ".tmp-mine").mkdir()
    save(tmp_path, 3, {}, {})
    assert names(tmp_path) == [".tmp-mine", "ckpt-00000001", "ckpt-00000003"]


def test_latest_of_nothing(tmp_path: Path) -> None:
    assert latest(tmp_path) is None and latest(tmp_path / "missing") is None
    for path in (tmp_path, tmp_path / "missing", tmp_path / "ckpt-00000001"):
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load(path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"step": -1}, ValueError, "step is -1"),
        ({"step": 10**8}, ValueError, "expected 0 to 99999999"),
        ({"step": 1.5}, TypeError, "float"),
        ({"keep": 0}, ValueError, "keep is 0"),
        ({"arrays": {"a": np.zeros(2, np.float16)}}, TypeError, "float16"),
        ({"arrays": {"a": np.zeros(2, ">f8")}}, TypeError, "'a' is dtype >f8"),
        ({"arrays": {"a": np.array([object()])}}, TypeError, "object"),
        ({"arrays": {"a": [1.0]}}, TypeError, "a list"),
        ({"arrays": {"__metadata__": np.zeros(2)}}, ValueError, "__metadata__"),
        ({"arrays": {"": np.zeros(2)}}, ValueError, "printable"),
        ({"arrays": {3: np.zeros(2)}}, ValueError, "array name is 3"),
        ({"state": {"a": [float("nan")]}}, ValueError, r"state\['a'\]\[0\] is nan"),
        ({"state": {"a": np.float32(1)}}, TypeError, "float32"),
        ({"state": {"a": {1: 2}}}, TypeError, "key 1"),
        ({"state": {"a": "x" * 2**22}}, ValueError, "store large values as arrays"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"step": 1, "arrays": {}, "state": {}, **change}
    with pytest.raises(error, match=message):
        save(tmp_path / "run", **arguments)
    assert names(tmp_path) == []
    if not change.keys() & {"step", "keep"}:
        with pytest.raises(error, match=message):
            save_model(tmp_path / "m.safetensors", arguments["arrays"], arguments["state"])
        assert names(tmp_path) == []


def test_state_that_contains_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(ValueError, match="nested deeper than 64"):
        save(tmp_path, 1, {}, state)


# ---- disk faults and crashes ----


@contextmanager
def failing_at(k: int, fail: Callable[[str], None]) -> Iterator[list[str]]:
    """Call `fail` instead of the k-th call that changes the disk; gives the list of calls made."""
    calls: list[str] = []
    originals = {
        name: getattr(os, name) for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir")
    }

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == k:
                fail(name)
            return original(*args, **kwargs)

        return call

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("xwa"):
            return real_open(file, mode, *args, **kwargs)
        return Torn(counted("open", real_open)(file, mode, *args, **kwargs), counted("write", lambda: None))

    real_open = builtins.open
    with pytest.MonkeyPatch.context() as patch:
        for name, original in originals.items():
            patch.setattr(os, name, counted(name, original))
        patch.setattr(builtins, "open", opened)
        yield calls


class Torn:
    """A file whose write stores half of the data before it may fail."""

    def __init__(self, stream: Any, before_rest: Callable[[], Any]) -> None:
        self._stream, self._before_rest = stream, before_rest

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self._stream.write(data[:half])
        self._stream.flush()
        self._before_rest()
        self._stream.write(data[half:])
        return len(data)


def disk_full(_: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", [2, 3], ids=["same step", "next step"])
def test_a_disk_fault_at_any_call_leaves_a_loadable_run(tmp_path: Path, step: int) -> None:
    seen: set[str] = set()
    faults = 0
    for k in range(100):
        run = tmp_path / str(k)
        for old in (1, 2):
            save(run, old, make_arrays(old), {"seed": old})
        with failing_at(k, disk_full) as calls:
            try:
                save(run, step, make_arrays(9), {"seed": 9})
            except OSError as error:
                faults += 1
                assert error.errno == errno.ENOSPC
                assert str(run) in str(error) and "bytes are free" in str(error)
        found = load(run)
        assert found.skipped == []
        assert_same(found.arrays, make_arrays(found.state["seed"]))
        assert found.state["seed"] in (2, 9)
        assert not [name for name in names(run) if name.startswith(".tmp")] or calls[k] in ("rmdir", "unlink")
        save(run, 4, make_arrays(4), {"seed": 4})  # the fault over, the run goes on and clears up
        assert load(run).step == 4
        assert not [name for name in names(run) if name.startswith(".")]
        seen.update(calls)
        if k >= len(calls):
            break
    else:
        pytest.fail("save never ended without a fault")
    assert {"mkdir", "write", "fsync", "rename"} <= seen
    assert faults >= 10  # 11 calls; making the run folder again is harmless


CRASHES = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import safetensors.numpy
from test_checkpoint import assert_same, failing_at, load, make_arrays, save

root, crashes = Path(sys.argv[1]), 0
for step in (2, 3):
    for k in range(100):
        run = root / f"{step}-{k}"
        save(run, 1, make_arrays(1), {"seed": 1})
        save(run, 2, make_arrays(2), {"seed": 2})
        child = os.fork()
        if child == 0:  # ends like a killed process: no clean-up runs
            with failing_at(k, lambda name: os._exit(9)):
                save(run, step, make_arrays(9), {"seed": 9})
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = load(run)
        assert_same(found.arrays, make_arrays(found.state["seed"]))
        assert found.skipped == [] and found.state["seed"] in (2, 9), (step, k)
        save(run, 4, make_arrays(4), {})
        assert load(run).step == 4 and not list(run.glob(".*")), (step, k)
        crashes += code == 9
        if code == 0:
            break
print(crashes)
"""


def run_script(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=child_env())


def child_env() -> dict[str, str]:
    package = Path(checkpoint.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_crash_at_any_call_leaves_a_loadable_run(tmp_path: Path) -> None:
    done = run_script(CRASHES, str(tmp_path), str(Path(__file__).parent))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2 * 11


SAVE_LOOP = """
import sys
import numpy as np
from svd_numpy.checkpoint import load, save
step = load(sys.argv[1]).step if sys.argv[2] == "resume" else 0
print("ready", flush=True)
while True:
    step += 1
    save(sys.argv[1], step // 3, {"a": np.full(20_000, step, np.float32)}, {"value": step})
    print(step, flush=True)
"""


def test_sigkill_at_random_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for mode in ["new"] + ["resume"] * 4:
        command = [sys.executable, "-c", SAVE_LOOP, str(tmp_path / "run"), mode]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_env()) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip().isdigit():
                    break  # at least one save is done
            time.sleep(rng.uniform(0, 0.05))
            child.kill()
            last = [line for line in child.stdout.read().split("\n")[:-1] if line] or [line]
        found = load(tmp_path / "run")
        assert found.skipped == []
        assert found.state["value"] >= int(last[-1])  # whatever was reported as saved is there
        assert np.all(found.arrays["a"] == found.state["value"])


def test_file_size_limit(tmp_path: Path) -> None:
    save(tmp_path, 1, make_arrays(), {})
    resource = pytest.importorskip("resource", reason="needs POSIX resource limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"ckpt-00000002.*bytes are free") as caught:
            save(tmp_path, 2, {"a": np.zeros(10_000)}, {})
        with pytest.raises(OSError, match=r"m\.safetensors.*bytes are free"):
            save_model(tmp_path / "m.safetensors", {"a": np.zeros(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == ["ckpt-00000001"]
    assert_same(load(tmp_path).arrays, make_arrays())


def test_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/run.*choose another folder"):
        save(tmp_path / "file" / "run", 1, {}, {})


# ---- damage ----


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


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
    with pytest.raises(CheckpointError, match="not that of the folder name"):
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
    "traversal": (lambda m: m["files"].update({"../../etc/passwd": {}}), "arrays.safetensors only"),
    "renamed": (lambda m: m.update(files={"../x": m["files"]["arrays.safetensors"]}), "safetensors only"),
    "files": (lambda m: m.update(files=[]), "arrays.safetensors only"),
    "file entry": (lambda m: m["files"].update({"arrays.safetensors": 3}), "cannot load"),
    "file keys": (lambda m: m["files"]["arrays.safetensors"].update(x=1), "bytes and sha256"),
    "file size": (lambda m: m["files"]["arrays.safetensors"].update(bytes=10**18), "fit together"),
    "float size": (lambda m: m["files"]["arrays.safetensors"].update(bytes=1e400), "finite"),
    "array lost": (lambda m: m["arrays"].pop("empty"), "different arrays"),
    "array dtype": (lambda m: m["arrays"]["scalar"].update(dtype="int64"), "different arrays"),
    "unknown dtype": (lambda m: m["arrays"]["scalar"].update(dtype="object"), "unknown type"),
    "list dtype": (lambda m: m["arrays"]["scalar"].update(dtype=[]), "unknown type"),
    "shape": (lambda m: m["arrays"]["special"].update(shape=[1, 5]), "different arrays"),
    "huge shape": (lambda m: m["arrays"]["special"].update(shape=[2**62]), "fit together"),
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
        b" " * (checkpoint.MAX_JSON_BYTES + 1),
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
        with pytest.raises(CheckpointError):
            load(path)
        (path / name).rmdir()
        outside.rename(path / name)
    (tmp_path / "run" / "ckpt-00000002").symlink_to(path)  # nor is a linked folder taken for a checkpoint
    assert load(tmp_path / "run").path == path


# ---- one-file models ----


def test_model_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"
    for seed in (0, 1):
        save_model(path, make_arrays(seed), make_state(seed))
        arrays, state = load_model(path)
        assert_same(arrays, make_arrays(seed))
        assert state == make_state(seed)
    assert names(path.parent) == ["model.safetensors"]
    save_model(tmp_path / "again.safetensors", make_arrays(1), make_state(1))
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    (tmp_path / "link.safetensors").symlink_to(path)  # the user names the file, so a link is followed
    assert_same(load_model(tmp_path / "link.safetensors")[0], make_arrays(1))


def test_model_opens_in_any_reader(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    save_model(path, make_arrays(), {"a": [1, 2]})
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["state"]) == {"a": [1, 2]}
        assert_same({name: file.get_tensor(name) for name in file.keys()}, make_arrays())  # noqa: SIM118


def test_damaged_models_never_load_wrong(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, make_arrays(), make_state(3))
    good = path.read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        flip(path, rng)
        try:
            arrays, state = load_model(path)
        except CheckpointError:
            refused += 1
        else:
            assert state == make_state(3)
            assert_same(arrays, make_arrays())
        path.write_bytes(good)
    assert refused > 290
    for content in [good[:n] for n in range(0, len(good), 7)] + [good + b"\0", b"\xff" * 8 + good[8:]]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot load"):
            load_model(path)


def test_model_refusals(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match=r"ending in \.safetensors"):
        save_model(tmp_path / "m.npz", {}, {})
    with pytest.raises(CheckpointError, match="No such file"):
        load_model(path)
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    with pytest.raises(CheckpointError, match="loop"):
        load_model(tmp_path / "loop.safetensors")
    save_file(make_arrays() | {"fortran": np.zeros(3), "strided": np.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not written by save_model"):
        load_model(path)
    save_model(path, {}, {})
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(CheckpointError, match="version '2'"):
        load_model(path)
    with path.open("r+b") as file:  # a file that claims, and on a sparse disk has, a terabyte
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="file size"):
        load_model(path)


def test_a_disk_fault_leaves_the_old_model(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for k in range(20):
        save_model(path, make_arrays(1), {"seed": 1})
        with failing_at(k, disk_full) as calls:
            try:
                save_model(path, make_arrays(2), {"seed": 2})
            except OSError as error:
                assert "m.safetensors" in str(error) and "bytes are free" in str(error)
        arrays, state = load_model(path)
        assert_same(arrays, make_arrays(state["seed"]))
        if k >= len(calls):
            break
    assert {"write", "fsync", "replace"} <= set(calls) and state["seed"] == 2
