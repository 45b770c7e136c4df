"""Files from anywhere: damaged bytes, and hostile content under valid checksums, for every format that is read.

    python campaigns/fuzz.py                     # 4,000 cases of each kind for each format
    python campaigns/fuzz.py --cases 50          # a trial
    python campaigns/fuzz.py --formats svdz      # one of them

Each case changes a good file, reads it, and uses what was read. Its seed is its name, so that any case can be repeated.
The table goes to `benchmarks/results/fuzz.md`, the counts to `fuzz.json` beside it; a campaign that was interrupted
goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tally import RESULTS, Judgement, Tally

import svd_numpy as svd
from svd_numpy.experiments.run_files import load_log_alphas, save_log_alphas
from svd_numpy.files.npz import write_npz
from svd_numpy.files.run_log import read_log
from svd_numpy.files.safe_arrays import load_model, save_model, sha256
from svd_numpy.plots.frames import FrameRecorder
from svd_numpy.sparse import net_reader

FORMATS = ("model", "compact", "svdz", "net.npz", "frames.npz", "log_alpha.npz", "metrics.jsonl")
MOST_BYTES, MOST_SECONDS = 2**28, 5.0
JUNK = (None, True, "", "x" * 300, -1, 0, 1, 2**31, 2**63, 2**200, 0.5, -1e300, [], {}, [[]], [1, 2, 3], "nan", "\0")
NUMBERS = (np.nan, np.inf, -np.inf, -1, 0, 1, 255, 1e9, -1e9, 1e300)
DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")

WORDS = """\
Each case changes a good file, reads it, and uses what was read. *Bytes* are damaged anywhere. *Hostile* files have
been made to do harm: other numbers, types, shapes and names, under valid checksums. The seed of a case is its format,
kind and number, such as `svdz bytes 17`.

- *same*: the change touched nothing that counts.
- *refused*: an error of this package, or of the operating system, that names the file.
- *changed*: read as something else, which works; a fault if bytes under a checksum were damaged.
- *void*: no such file could be made.
- *unclear*: any other exception, or a message without the file; always a fault.
- *costly*: more than 256 MiB or 5 seconds; always a fault.
"""

Rng = random.Random


@dataclass(frozen=True)
class Target:
    """A format: how its file is read and used, and how a hostile one is made from the good one."""

    suffix: str
    good: bytes
    read: Callable[[Path], Any]
    use: Callable[[Any], Any]
    hostile: Callable[[Path, Rng], None]
    checked: bool = True  # whether a checksum covers every byte that counts


# ---- good files ----


def network() -> svd.Sequential:
    """A small network with every kind of layer that has arrays."""
    model = svd.Sequential(
        svd.VariationalConv2d(1, 4, 3, padding=1), svd.BatchNorm(4), svd.ReLU(), svd.MaxPool2d(2), svd.Flatten(),
        svd.VariationalDense(64, 8), svd.ReLU(), svd.VariationalDense(8, 3), input_shape=(1, 8, 8), backend="numpy",
    )  # fmt: skip
    for layer in model.variational_layers:
        layer.log_sigma2[::2] = 5
    return model


def targets(folder: Path) -> dict[str, Target]:
    """Write a good file of every format and describe it."""
    model, x = network(), np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    small = svd.compress(model, backend="numpy")

    def predict(read: Any) -> Any:
        return read.predict(np.zeros((2, *read.in_shape), np.float32))

    def predict_export(run: Any) -> None:
        try:
            run(np.zeros((2, 64), np.float32))
        except ValueError as error:
            if "got images of 64 numbers, expected" not in str(error):  # it says so of a network for other images
                raise

    def made(name: str, write: Callable[[Path], Any]) -> bytes:
        write(folder / name)
        return (folder / name).read_bytes()

    def frames(path: Path) -> None:
        recorder, rng = FrameRecorder((4, 4)), np.random.default_rng(0)
        for epoch in (1, 2, 3):
            recorder.add(epoch, rng.normal(size=(16, 5)), rng.normal(size=(16, 5)), 0.0, 0.1, 0.5)
        recorder.save(path)

    def log(path: Path) -> None:
        data = svd.Dataset("fuzz", x[:, 0, 0], np.array([0, 1, 2, 0]), x[:, 0, 1], np.array([0, 1, 2, 0]), None, 3, "")
        run, plain = path.with_name("run"), svd.Sequential(svd.VariationalDense(8, 3), backend="numpy")
        svd.fit(plain, data, svd.TrainConfig(epochs=4, batch_size=2), run_dir=run, progress=False)
        path.write_bytes((run / "metrics.jsonl").read_bytes())

    alphas = {"dense1": np.random.default_rng(1).normal(size=(16, 5)), "dense2": np.zeros((5, 3))}

    def model_file(read: Callable[..., Any], write: Callable[[Path], Any], name: str) -> Target:
        return Target(".safetensors", made(name, write), lambda path: read(path, "numpy"), predict, resign)

    def npz_file(read: Callable[[Path], Any], use: Callable[[Any], Any], write: Callable[[Path], Any]) -> Target:
        return Target(".npz", made("own.npz", write), read, use, change_npz, checked=False)

    return {
        "model": model_file(svd.Sequential.load, model.save, "model.safetensors"),
        "compact": model_file(svd.SparseModel.load, small.save, "compact.safetensors"),
        "svdz": Target(
            ".svdz", made("net.svdz", lambda path: svd.save_packed(path, small)),
            lambda path: svd.load_packed(path, "numpy"), predict, repack,
        ),
        "net.npz": Target(
            ".npz", made("net.npz", small.export_numpy), net_reader.load,
            predict_export, change_export,
        ),
        "frames.npz": npz_file(FrameRecorder.load, lambda read: read.save(folder / "again.npz"), frames),
        "log_alpha.npz": npz_file(load_log_alphas, lambda read: read, lambda path: save_log_alphas(path, alphas, 3.0)),
        "metrics.jsonl": Target(
            ".jsonl", made("log.jsonl", log), read_log, lambda read: read, change_log, checked=False
        ),
    }  # fmt: skip


# ---- mutators ----


def damage(content: bytes, rng: Rng) -> bytes:
    """Flip, overwrite, cut, repeat or insert bytes."""
    data, at = bytearray(content), rng.randrange(len(content))
    size = 1 << rng.randrange(8)
    kind = rng.randrange(6)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + size] = rng.randbytes(min(size, len(data) - at))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + size]
    elif kind == 4:
        data[at:at] = data[at : at + size]
    else:
        data[at:at] = rng.randbytes(size)
    return bytes(data)


def spoil_json(value: Any, rng: Rng) -> Any:
    """Replace, drop or repeat one part of a JSON value."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, action = rng.choice(keys), rng.random()
        if action < 0.1:
            del value[key]
        elif action < 0.2:
            other = copy.deepcopy(value[rng.choice(keys)])
            value[key] = other
        else:
            value[key] = spoil_json(value[key], rng)
        return value
    if type(value) in (int, float) and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 2, float(value), value * 2**20))
    return copy.deepcopy(rng.choice(JUNK))


def spoil_arrays(arrays: dict[str, Any], rng: Rng) -> None:
    """Change a number, the dtype or the shape of one array, or which arrays there are."""
    name = rng.choice(sorted(arrays))
    array, kind = np.array(arrays[name]), rng.randrange(6)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == 0 and array.size and array.dtype.kind in "fiub":
            array.flat[rng.randrange(array.size)] = np.float64(rng.choice(NUMBERS)).astype(array.dtype)
        elif kind == 1 and array.dtype.kind in "fiub":
            array = array.astype(rng.choice(DTYPES))
        elif kind == 2:
            array = array.ravel()[: rng.randrange(array.size + 1)]
        elif kind == 3:
            array = array[None]
        elif kind == 4:
            array = np.array(arrays[rng.choice(sorted(arrays))])
        else:
            del arrays[name]
            return
    arrays[name] = array


def resign(path: Path, rng: Rng) -> None:
    """Change arrays or state of a model file, and sign it anew."""
    arrays, state = load_model(path)
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5 and arrays:
            spoil_arrays(arrays, rng)
        else:
            state = spoil_json(state, rng)
            state = state if isinstance(state, dict) else {"layers": state}
    save_model(path, arrays, state)


def repack(path: Path, rng: Rng) -> None:
    """Damage the body of a packed network, and correct the checksum."""
    content = path.read_bytes()
    body = damage(content[9:], rng) if rng.random() < 0.7 else rng.randbytes(rng.randrange(200))
    path.write_bytes(content[:5] + zlib.crc32(body).to_bytes(4, "big") + body)


def arrays_of(path: Path) -> dict[str, Any]:
    """All arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def change_npz(path: Path, rng: Rng) -> None:
    """Change the arrays of an .npz file."""
    arrays = arrays_of(path)
    spoil_arrays(arrays, rng)
    write_npz(path, arrays)


def change_export(path: Path, rng: Rng) -> None:
    """Change the arrays of an exported network, and correct the checksum."""
    arrays, packed = arrays_of(path), io.BytesIO()
    spoil_arrays(arrays, rng)
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.comment = bytes(64)
    content = packed.getvalue()[:-64]
    path.write_bytes(content + sha256(content).encode())


def change_log(path: Path, rng: Rng) -> None:
    """Change, drop, repeat or swap lines of a log."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    at, kind = rng.randrange(len(records)), rng.randrange(6)
    if kind == 0:
        del records[at]
    elif kind == 1:
        records.insert(at, records[rng.randrange(len(records))])
    elif kind == 2:
        rng.shuffle(records)
    else:
        records[at] = spoil_json(records[at], rng)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


# ---- one case ----


def fingerprint(value: Any) -> str:
    """A digest of what was read, arrays included."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        elif isinstance(part, dict):
            add([(str(key), item) for key, item in part.items()])
        elif isinstance(part, list | tuple):
            digest.update(b"(")
            for item in part:
                add(item)
            digest.update(b")")
        elif isinstance(part, svd.Sequential):
            add([part.config(), part.arrays()])
        elif isinstance(part, svd.SparseModel):
            add([part.ops, part.likelihood])
        elif is_dataclass(part):
            add([type(part).__name__, *(getattr(part, field.name) for field in fields(part))])
        elif isinstance(part, FrameRecorder):
            add(vars(part))
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()


def judge(target: Target, path: Path, good: str | None) -> tuple[str, str]:
    """Read a file and use what was read; return the verdict and what there is to say about it."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            read = target.read(path)
            verdict = "same" if good is not None and fingerprint(read) == good else "changed", ""
            try:
                target.use(read)
            except (svd.SvdError, OSError) as error:
                verdict = "refused", str(error)
    except Exception as error:
        clear = isinstance(error, svd.SvdError | OSError) or target.read is net_reader.load
        named = str(path) in str(error)
        verdict = "refused" if clear and named else "unclear", f"{type(error).__name__}: {error}"[:300]
    finally:
        most, seconds = tracemalloc.get_traced_memory()[1], time.perf_counter() - started
        tracemalloc.stop()
    if most > MOST_BYTES or seconds > MOST_SECONDS:
        return "costly", f"{most >> 20} MiB, {seconds:.1f} s"
    return verdict


def is_fault(verdict: str, kind: str, target: Target) -> bool:
    """Whether a verdict is a fault."""
    return verdict in ("unclear", "costly") or (verdict == "changed" and kind == "bytes" and target.checked)


def run_case(name: str, target: Target, kind: str, number: int, path: Path, good: str | None) -> tuple[str, str]:
    """Make one case and judge it; the verdict "void" means that the mutator could not write it."""
    rng = Rng(f"{name} {kind} {number}")
    path.write_bytes(target.good)
    if kind == "bytes":
        path.write_bytes(damage(target.good, rng))
    else:
        try:
            target.hostile(path, rng)
        except (svd.SvdError, ValueError, TypeError, OverflowError):
            return "void", ""
    return judge(target, path, good)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that are not done yet; return 1 if there were faults."""
    parser = argparse.ArgumentParser(description="Read damaged and hostile files of every format.")
    parser.add_argument("--cases", type=int, default=4000, help="of each kind for each format (default 4,000)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="which ones (default all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of fuzz.json and fuzz.md")
    options = parser.parse_args(arguments)
    tally = Tally(options.out, "fuzz", "No file is trusted", WORDS, arguments)
    with tempfile.TemporaryDirectory() as scratch:
        for name, target in targets(Path(scratch)).items():
            if name not in options.formats:
                continue
            file = Path(scratch) / f"case{target.suffix}"
            file.write_bytes(target.good)
            read = target.read(file)
            good = None if target.read is net_reader.load else fingerprint(read)
            for kind in ("bytes", "hostile"):

                def judged(number: int, of: tuple[Any, ...] = (name, target, kind, file, good)) -> Judgement:
                    verdict, words = run_case(*of[:3], number, *of[3:])
                    return verdict, words.replace(scratch, ""), is_fault(verdict, of[2], of[1])

                tally.run(f"{name}, {kind}", options.cases, judged)
    return int(tally.faults > 0)


if __name__ == "__main__":
    sys.exit(main())
