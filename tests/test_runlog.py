"""The run log: strict records, crashes, resuming."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svd_numpy.files.run_log import RunLog, read_log


def write(path: Path, n: int) -> RunLog:
    log = RunLog(path)
    for epoch in range(n):
        log.append({"epoch": epoch, "loss": 1 / (epoch + 3), "accuracy": None, "per_layer": [0.5, epoch]})
    return log


def test_round_trip(tmp_path: Path) -> None:
    log = write(tmp_path / "run" / "metrics.jsonl", 3)
    assert read_log(tmp_path / "run" / "metrics.jsonl") == log.records
    assert log.records[2] == {"schema": 1, "epoch": 2, "loss": 0.2, "accuracy": None, "per_layer": [0.5, 2]}
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


def test_memory_only() -> None:
    for log in (RunLog(None), RunLog(None, resume_epoch=3)):
        log.append({"epoch": 0})
        assert log.records == [{"schema": 1, "epoch": 0}]


def test_records_are_copies() -> None:
    log, value = RunLog(None), [1]
    log.append({"epoch": 0, "value": value})
    value.append(2)
    assert log.records[0]["value"] == [1]


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"epoch": 0, "loss": float("nan")}, ValueError, r"record\['loss'\] is nan.*None"),
        ({"epoch": 0, "a": {"b": [float("-inf")]}}, ValueError, r"record\['a'\]\['b'\]\[0\] is -inf"),
        ({"epoch": 0, "loss": np.float32(1)}, TypeError, r"float32.*\.item"),
        ({"epoch": 0, 1: 2}, TypeError, "key 1"),
        ({"loss": 1.0}, ValueError, "'epoch'"),
        ({"epoch": -1}, ValueError, "is -1"),
        ({"epoch": True}, ValueError, "is True"),
        ({"epoch": 0, "schema": 1}, ValueError, "schema"),
    ],
)
def test_bad_records_change_nothing(
    tmp_path: Path, record: dict[Any, Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "m.jsonl"
    log = write(path, 2)
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        log.append(record)
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
        log = RunLog(path, resume_epoch=2)
        assert log.records == full[:3] == read_log(path)
        for record in full[3:]:
            log.append({key: value for key, value in record.items() if key != "schema"})
        assert log.records == full == read_log(path)
    assert RunLog(path, resume_epoch=-1).records == [] and path.read_bytes() == b""
    assert RunLog(tmp_path / "missing.jsonl", resume_epoch=1).records == []


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
    path.write_bytes(content + bytes(100))  # what a power cut may leave
    assert read_log(path) == full


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"epoch": 1', "line 2 is not valid JSON"),
        ("", "line 2 is not valid JSON"),
        ('{"schema": 1, "epoch": 1, "loss": NaN}', "line 2.*NaN"),
        ('{"schema": 1, "epoch": 1, "loss": 1e999}', "line 2.*1e999"),
        ('{"schema": 1, "epoch": 1, "epoch": 2}', "line 2.*repeated"),
        ("[" * 50_000, "line 2 is not valid JSON"),
        ("[1]", "line 2 is not a record"),
        ('{"schema": 1}', "line 2 is not a record"),
        ('{"schema": 2, "epoch": 1}', "line 2 has schema 2"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    good = '{"schema": 1, "epoch": 0}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(ValueError, match=message):
        read_log(path)
    with pytest.raises(ValueError, match=message):
        RunLog(path, resume_epoch=5)
    assert path.read_text() == f"{good}\n{line}\n{good}\n"


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
            log.append({"epoch": 3, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert read_log(path) == log.records and len(log.records) == 3
    log.append({"epoch": 3})
    assert [record["epoch"] for record in read_log(path)] == [0, 1, 2, 3]


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
            RunLog(path, resume_epoch=1)
    assert caught.value.errno == errno.EIO
    assert read_log(path) == full and list(tmp_path.iterdir()) == [path]
    assert RunLog(path, resume_epoch=1).records == full[:2] == read_log(path)
