"""The run log: strict records, crashes, resuming."""

import errno
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svd_numpy.files.run_log import MAX_LINE, RunLog, read_log


def record(epoch: int, **changes: Any) -> dict[str, Any]:
    """A record as training makes it."""
    return {
        "epoch": epoch, "stage": "variational", "seconds": 0.5 * epoch, "nll": 1 / (epoch + 3), "kl": -7.5,
        "kl_weight": 1.0, "lr": 0.01, "train_error": 0.25, "test_error": None, "test_nll": None,
        "sparsity": {"dense1": 0.5, "dense2": 0}, "compression": 2, "living": 40,
        "forms": {"dense1": "lists", "dense2": "matrix"}, "ms_per_step": 0.25, "non_finite": 0.0, **changes,
    }  # fmt: skip


def line(epoch: int, **changes: Any) -> str:
    return json.dumps({"schema": 1, **record(epoch, **changes)})


def write(path: Path, n: int) -> RunLog:
    log = RunLog(path)
    for epoch in range(1, n + 1):
        log.append(record(epoch))
    return log


def test_round_trip(tmp_path: Path) -> None:
    log = write(tmp_path / "run" / "metrics.jsonl", 3)
    assert read_log(tmp_path / "run" / "metrics.jsonl") == log.records
    assert log.records[2] == {"schema": 1, **record(3)}
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text)["epoch"] for text in lines] == [1, 2, 3]


def test_memory_only() -> None:
    log = RunLog(None)
    log.append(record(1))
    assert log.records == [{"schema": 1, **record(1)}]


def test_records_are_copies() -> None:
    log, sparsity = RunLog(None), {"dense1": 0.5}
    log.append(record(1, sparsity=sparsity))
    sparsity["dense1"] = 0.75
    assert log.records[0]["sparsity"] == {"dense1": 0.5}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"nll": float("nan")}, ValueError, r"record\['nll'\] is nan.*None"),
        ({"sparsity": {"dense1": float("-inf")}}, ValueError, r"record\['sparsity'\]\['dense1'\] is -inf"),
        ({"nll": np.float32(1)}, TypeError, r"float32.*\.item"),
        ({1: 2}, TypeError, "key 1"),
        ({"epoch": 4}, ValueError, "epoch is 4; expected 3"),
        ({"epoch": 2}, ValueError, "epoch is 2; expected 3"),
        ({"epoch": True}, ValueError, "epoch is True"),
        ({"schema": 1}, ValueError, "schema"),
        ({"loss": 1.0}, ValueError, "unknown entry 'loss'"),
        ({"nll": "low"}, ValueError, "nll is 'low'; expected a number"),
    ],
)
def test_bad_records_change_nothing(
    tmp_path: Path, changes: dict[Any, Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "m.jsonl"
    log = write(path, 2)
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        log.append({**record(3), **changes})
    assert path.read_bytes() == before and len(log.records) == 2


def test_an_existing_log_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.touch()
    write(path, 2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="choose another run_dir, or resume=True"):
        RunLog(path)
    assert path.read_bytes() == before


def test_resume_keeps_up_to_the_epoch(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    full = write(path, 5).records
    for cut in (0, 9):  # a whole last line, and one cut short by a crash
        path.write_bytes(path.read_bytes()[: -cut or None])
        log = RunLog(path, resume_epoch=3)
        assert log.records == full[:3] == read_log(path)
        for each in full[3:]:
            log.append({key: value for key, value in each.items() if key != "schema"})
        assert log.records == full == read_log(path)
    assert RunLog(path, resume_epoch=0).records == [] and path.read_bytes() == b""
    assert RunLog(tmp_path / "missing.jsonl", resume_epoch=0).records == []


def test_a_log_that_ends_before_the_checkpoint_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, 2)
    before = path.read_bytes()
    for file, found in ((path, 2), (tmp_path / "missing.jsonl", 0)):
        with pytest.raises(ValueError, match=rf"{file.name} holds {found} of 4 epochs.*restore it"):
            RunLog(file, resume_epoch=4)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_log_that_need_not_be_cut_is_not_written(tmp_path: Path) -> None:
    """A finished run can be read back from a folder that cannot be written to."""
    path = tmp_path / "m.jsonl"
    write(path, 2)
    before = path.stat()
    assert len(RunLog(path, resume_epoch=2).records) == 2
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_every_truncation_reads_as_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    full = write(path, 3).records
    content = path.read_bytes()
    for n in range(len(content) + 1):
        path.write_bytes(content[:n])
        found = read_log(path)
        assert found == full[: len(found)]
        # a record counts from its closing brace on, even before its line end
        assert len(found) == content[:n].count(b"\n") + (content[n : n + 1] == b"\n")
    for cut in (0, 20):
        path.write_bytes(content[: len(content) - cut] + bytes(100))  # what a power cut may leave
        assert read_log(path) == full[: 3 - (cut > 0)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"epoch": 1', "line 2 is not valid JSON"),
        ("", "line 2 is not valid JSON"),
        (line(2).replace("-7.5", "NaN"), "line 2.*NaN"),
        (line(2).replace("-7.5", "1e999"), "line 2.*1e999"),
        (line(2)[:-1] + ', "epoch": 2}', "line 2.*repeated"),
        ("[" * 50_000, "line 2 is not valid JSON"),
        ("[1]", "line 2 is not a record"),
        (line(2).replace('"schema": 1', '"schema": 2'), "line 2 has schema 2"),
        (line(1), "line 2: epoch is 1; expected 2"),
        (line(3), "line 2: epoch is 3; expected 2"),
        (line(2).replace('"epoch": 2', '"epoch": 2.0'), "line 2: epoch is 2.0; expected 2"),
        (line(2).replace('"nll"', '"null"'), "line 2: unknown entry 'null'"),
        (line(2).replace('"compression": 2, ', ""), "line 2: compression is missing"),
        (line(2, compression=0), "line 2: compression is 0; expected a number of at least 1"),
        (line(2, nll="low"), "line 2: nll is 'low'; expected a number"),
        (line(2, nll=True), "line 2: nll is True"),
        (line(2, nll=10**400), "line 2: nll is 1000"),
        (line(2, train_error=-0.1), "line 2: train_error is -0.1"),
        (line(2, train_error=None), "line 2: train_error is None"),
        (line(2, seconds=-1), "line 2: seconds is -1"),
        (line(2, stage="\u001b[2J"), r"line 2: stage is '\\x1b\[2J'"),
        (line(2, sparsity=[0.5]), "line 2: sparsity is"),
        (line(2, sparsity={"dense1": 1.5}), "line 2: sparsity is"),
        (line(2, valid_error="x"), "line 2: valid_error is 'x'"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_malformed_lines_are_named(tmp_path: Path, second: str, message: str, last: bool) -> None:
    path = tmp_path / "m.jsonl"
    content = f"{line(1)}\n{second}\n" + ("" if last else f"{line(3)}\n")
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"m\.jsonl {message}"):
        read_log(path)
    with pytest.raises(ValueError, match=message):
        RunLog(path, resume_epoch=5)
    assert path.read_text() == content


@pytest.mark.parametrize("tail", [b"something else", b"[1]", b"}", line(5).encode()])
def test_an_unfinished_last_line_that_is_no_part_of_a_record_is_named(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(f"{line(1)}\n".encode() + tail)
    with pytest.raises(ValueError, match="line 2"):
        read_log(path)


@pytest.mark.parametrize("content", [b"\n" * 12_000_000, b"{" * 12_000_000, b"\0" * 12_000_000])
def test_a_huge_file_is_refused_in_little_memory(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="line 1"):
        read_log(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE
    tracemalloc.stop()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_log_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is a link"):
        RunLog(tmp_path / "metrics.jsonl")
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_missing_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / "m.jsonl")


def test_a_full_disk_leaves_a_readable_log(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    log = write(path, 3)
    resource = pytest.importorskip("resource", reason="needs POSIX resource limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match=r"m\.jsonl.*bytes are free") as caught:
            log.append(record(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert read_log(path) == log.records and len(log.records) == 3
    log.append(record(4))
    assert [each["epoch"] for each in read_log(path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_fault_while_resuming_leaves_the_old_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    path = tmp_path / "m.jsonl"
    full = write(path, 5).records
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=r"m\.jsonl: broken disk; [0-9,]+ bytes are free") as caught:
            RunLog(path, resume_epoch=2)
    assert caught.value.errno == errno.EIO
    assert read_log(path) == full and list(tmp_path.iterdir()) == [path]
    assert RunLog(path, resume_epoch=2).records == full[:2] == read_log(path)
