"""The log of a run: one strict JSON object per line and epoch, each written whole or not at all."""

import contextlib
import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdError, SvdValueError, as_path
from svd_numpy.files.atomic import check_json, disk_error, loads_strict, write_atomic

__all__ = ["RunLog", "read_log"]

SCHEMA = 1
MAX_LINE = 2**20  # bytes; a record of a network with a thousand layers takes 30 000
STAGES = ("variational", "finetune")

# The numbers of a record: the lowest value, the highest one, and whether None may stand for a missing number.
_NUMBERS = {
    "seconds": (0.0, math.inf, False),
    "nll": (-math.inf, math.inf, False),
    "kl": (-math.inf, math.inf, False),
    "kl_weight": (0.0, math.inf, False),
    "lr": (0.0, math.inf, False),
    "train_error": (0.0, math.inf, False),
    "valid_error": (0.0, math.inf, True),
    "valid_nll": (-math.inf, math.inf, True),
    "test_error": (0.0, math.inf, True),
    "test_nll": (-math.inf, math.inf, True),
    "compression": (1.0, math.inf, False),
    "living": (0.0, math.inf, False),
    "ms_per_step": (0.0, math.inf, False),
    "non_finite": (0.0, 1.0, False),
}
_OTHERS = ("schema", "epoch", "stage", "sparsity", "forms")
FORMS = ("matrix", "lists")  # what the steps of a layer compute on
_OPTIONAL = ("valid_error", "valid_nll")  # only where there are validation data


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
        The records of epochs 1, 2, ..., as `read_log` would give them.

    Raises
    ------
    ValueError
        If the file has records already and `resume_epoch` is None, if it is malformed or lacks epochs, or if it is a
        link: records would be written to wherever it leads.
    DiskError
        If the file cannot be written; the old log is still there.
    """

    def __init__(self, path: Path | None, resume_epoch: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        if self._path.is_symlink():
            raise SvdValueError(f"{self._path} is a link, expected a file of the run's own; remove it")
        exists = self._path.exists()
        if resume_epoch is None:
            if exists and self._path.stat().st_size:
                raise SvdValueError(
                    f"{self._path} already holds a log; choose another run_dir, or resume=True to go on with this run"
                )
            return
        if exists:
            self.records = read_log(self._path)[:resume_epoch]
        if len(self.records) < resume_epoch:
            raise SvdValueError(
                f"{self._path} holds {len(self.records)} of {resume_epoch} epochs that the checkpoint has behind it; "
                "restore it from a copy, or start again in another run_dir"
            )
        content = b"".join(_line(record) for record in self.records)
        if exists and self._path.read_bytes() != content:
            write_atomic(self._path, content)

    def append(self, record: dict[str, Any]) -> None:
        """Add the record of the next epoch and write it through to the operating system.

        Parameters
        ----------
        record : dict
            What `svd_numpy.train.trainer.Trainer.end_epoch` returns; ``schema`` is added.

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
        line = _line({"schema": SCHEMA, **record})
        checked = _parse(line, "record", len(self.records) + 1)  # a copy, which the caller cannot change later
        if self._path is not None:
            _append_line(self._path, line)
        self.records.append(checked)

    def sync(self) -> None:
        """Sync the file to the disk: a checkpoint that is to survive a power cut needs the records before it."""
        if self._path is not None and self.records:
            try:
                with open(self._path, "rb+") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise disk_error(self._path, error) from error


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a log file: the records of epochs 1, 2, ..., without gap or repetition.

    A last line cut short by a crash is ignored; one that lacks only its line end is read.

    Raises
    ------
    ValueError
        For any other malformed line; the message gives its number.
    FileNotFoundError
        If there is no such file.
    """
    path = as_path("path", path)
    records: list[dict[str, Any]] = []
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE + 1):
            epoch = len(records) + 1
            where = f"{path} line {epoch}"
            if len(line) > MAX_LINE:
                raise SvdValueError(f"{where} is longer than {MAX_LINE} bytes; repair or remove the line")
            if not line.endswith(b"\n") and _is_cut(line):
                break
            records.append(_parse(line, where, epoch))
    return records


def _is_cut(line: bytes) -> bool:
    """Whether a line without an end may be the beginning of a record; a power cut may leave null bytes behind it."""
    line = line.rstrip(b"\0")
    try:
        loads_strict(line)
    except ValueError:
        return line[:1] in (b"", b"{")
    return False


def _parse(line: bytes, where: str, epoch: int) -> dict[str, Any]:
    """Return the record of this epoch."""
    try:
        record = loads_strict(line)
    except ValueError as error:
        raise SvdValueError(f"{where} is not valid JSON ({error}); repair or remove the line") from error
    if not isinstance(record, dict):
        raise SvdValueError(f"{where} is not a record; expected a JSON object")
    if record.get("schema") != SCHEMA:
        raise SvdValueError(f"{where} has schema {record.get('schema')!r}; this release reads {SCHEMA}")
    try:
        _check(record, epoch)
    except SvdError as error:
        raise SvdValueError(f"{where}: {error}") from None
    return record


def _check(record: dict[str, Any], epoch: int) -> None:
    """Raise unless this is the record of this epoch, with all entries and nothing else."""
    for key in record:
        if key not in _NUMBERS and key not in _OTHERS:
            raise SvdValueError(f"unknown entry {key!r}; expected {', '.join((*_OTHERS, *_NUMBERS))}")
    for key in (*_OTHERS, *_NUMBERS):
        if key not in record and key not in _OPTIONAL:
            raise SvdValueError(f"{key} is missing")
    found, stage, shares = record["epoch"], record["stage"], record["sparsity"]
    if type(found) is not int or found != epoch:
        raise SvdValueError(f"epoch is {found!r}; expected {epoch}: epochs count from 1, each once and in order")
    if stage not in STAGES:
        raise SvdValueError(f"stage is {stage!r}; expected one of {STAGES}")
    for key, (low, high, missing) in _NUMBERS.items():
        value = record.get(key)
        if not (_is_number(value, low, high) or (value is None and (missing or key in _OPTIONAL))):
            bounds = (
                "" if low == -math.inf else f" of at least {low:g}" if high == math.inf else f" in {low:g}..{high:g}"
            )
            raise SvdValueError(f"{key} is {repr(value)[:60]}; expected a number{bounds}")
    if not isinstance(shares, dict) or not all(_is_number(share, 0, 1) for share in shares.values()):
        raise SvdValueError(f"sparsity is {repr(shares)[:60]}; expected a number in 0..1 for each layer")
    forms = record["forms"]
    if not isinstance(forms, dict) or not all(form in FORMS for form in forms.values()):
        raise SvdValueError(f"forms is {repr(forms)[:60]}; expected one of {FORMS} for each layer")


def _is_number(value: object, low: float, high: float) -> bool:
    """Whether this is a finite number in [low, high]; JSON also has whole numbers beyond the range of float."""
    if type(value) is int:
        return low <= value <= high and abs(value) < 2**1023
    return type(value) is float and math.isfinite(value) and low <= value <= high


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
