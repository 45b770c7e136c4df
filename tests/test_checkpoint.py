"""Checkpoints: exact round trips, and crashes at every system call."""

import errno
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_tools import assert_same, disk_full, failing_at, make_arrays, make_state, names

from svd_numpy.checks import SvdError
from svd_numpy.files import checkpoint
from svd_numpy.files.atomic import disk_error
from svd_numpy.files.checkpoint import latest, load, save
from svd_numpy.files.safe_arrays import CheckpointError, save_model


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
    assert {"mkdir", "write", "fsync", "replace"} <= seen
    assert faults >= 10  # 11 calls; making the run folder again is harmless


CRASHES = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import safetensors.numpy
from checkpoint_tools import assert_same, failing_at, make_arrays
from svd_numpy.files.checkpoint import load, save

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
from svd_numpy.files.checkpoint import load, save
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
    with pytest.raises(
        OSError,
        match=r"^could not write .*file/run.*are free there\. A folder in this path is a file: choose another folder$",
    ) as caught:
        save(tmp_path / "file" / "run", 1, {}, {})
    assert isinstance(caught.value, SvdError)


def test_a_full_disk_is_said_with_its_remedy() -> None:
    full = disk_error(Path("/run/here"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert isinstance(full, SvdError) and isinstance(full, OSError) and full.errno == errno.ENOSPC
    assert str(full).startswith("could not write /run/here: No space left on device; ")
    assert str(full).endswith(" bytes are free there. Free some space, or choose another folder")
