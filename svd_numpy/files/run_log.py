"""The log of a run: one strict JSON object per line, each written whole or not at all."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdValueError, as_path
from svd_numpy.files.atomic import check_json, disk_error, loads_strict, write_atomic

__all__ = ["RunLog", "read_log"]

SCHEMA = 1


class RunLog:
    """Append-only log of a training run, in memory and in a ``metrics.jsonl`` file.

    Parameters
    ----------
    path : Path or None
        File to write; None keeps the records in memory only.
    resume_epoch : int, optional
        Continue an existing log after this epoch; later records, and a last line cut short by a crash,
        are dropped. If it is None, the file must be missing or empty.

    Attributes
    ----------
    records : list of dict
        All records, as `read_log` would give them.

    Raises
    ------
    ValueError
        If the file has records already and `resume_epoch` is None, or if the file is malformed.
    DiskError
        If the file cannot be written; the old log is still there.
    """

    def __init__(self, path: Path | None, resume_epoch: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        exists = self._path.exists()
        if resume_epoch is None and exists and self._path.stat().st_size:
            raise SvdValueError(
                f"{self._path} already holds a log; choose another run_dir, or resume=True to go on with this run"
            )
        if resume_epoch is not None and exists:
            self.records = [record for record in read_log(self._path) if record["epoch"] <= resume_epoch]
            write_atomic(self._path, b"".join(_line(record) for record in self.records))

    def append(self, record: dict[str, Any]) -> None:
        """Add one record and write it through to the operating system.

        Parameters
        ----------
        record : dict
            JSON values: str keys, finite numbers (None for a missing one), no NumPy scalars.
            ``epoch`` (int, at least 0) is required; ``schema`` is added.

        Raises
        ------
        TypeError, ValueError
            If the record is not of that form; nothing has been written then.
        DiskError
            If the file cannot be written; it is cut back to the records before this one.
        """
        check_json(record, "record")
        if "schema" in record:
            raise SvdValueError("record has the key 'schema', which the log adds itself; choose another name")
        if not _is_epoch(record.get("epoch")):
            raise SvdValueError(f"record['epoch'] is {record.get('epoch')!r}; expected an int of at least 0")
        line = _line({"schema": SCHEMA, **record})
        if self._path is not None:
            _append_line(self._path, line)
        self.records.append(loads_strict(line))  # a copy, which the caller cannot change later


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a log file.

    A last line cut short by a crash is ignored; one that lacks only its line end is read.

    Raises
    ------
    ValueError
        For any other malformed line; the message gives its number.
    FileNotFoundError
        If there is no such file.
    """
    *lines, last = as_path("path", path).read_bytes().split(b"\n")
    records = [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]
    try:
        unfinished = not isinstance(loads_strict(last), dict)
    except ValueError:
        unfinished = True  # the beginning of a JSON object is never a JSON object
    if not unfinished:
        records.append(_parse(last, f"{path} line {len(lines) + 1}"))
    return records


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = loads_strict(line)
    except ValueError as error:
        raise SvdValueError(f"{where} is not valid JSON ({error}); repair or remove the line") from error
    if not isinstance(record, dict) or not _is_epoch(record.get("epoch")):
        raise SvdValueError(f"{where} is not a record; expected an object with an int 'epoch' of at least 0")
    if record.get("schema") != SCHEMA:
        raise SvdValueError(f"{where} has schema {record.get('schema')!r}; this release reads {SCHEMA}")
    return record


def _is_epoch(value: object) -> bool:
    return type(value) is int and value >= 0


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _append_line(path: Path, line: bytes) -> None:
    """Append in one unbuffered write; if that fails, cut the file back so that it stays readable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise
    except OSError as error:
        raise disk_error(path, error) from error
