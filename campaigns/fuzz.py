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
import hashlib
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mutators import (
    Rng,
    as_file,
    as_run,
    change_checkpoint,
    change_export,
    change_idx,
    change_log,
    change_npz,
    change_result,
    change_torch,
    damage,
    repack,
    resign,
)
from tally import RESULTS, Judgement, Tally

import svd_numpy as svd
from svd_numpy.data.idx import idx_header, read_idx
from svd_numpy.experiments.run_files import load_log_alphas, read_result, recorded_dataset, save_log_alphas
from svd_numpy.files.run_log import read_log
from svd_numpy.plots.frames import FrameRecorder
from svd_numpy.sparse import net_reader
from svd_numpy.train import resuming
from svd_numpy.train.trainer import Trainer

FORMATS = (
    "model", "compact", "svdz", "net.npz", "recurrent.npz", "frames.npz", "log_alpha.npz", "metrics.jsonl",
    "checkpoint", "result.json", "PyTorch", "IDX",
)  # fmt: skip
MOST_BYTES, MOST_SECONDS = 2**28, 5.0

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


@dataclass(frozen=True)
class Target:
    """A format: how its file is read and used, and how a hostile one is made from the good one."""

    name: str
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
    layers = svd.VariationalLSTM("abcde", 4, tokens=True), svd.VariationalDense(4, 5)
    letters = svd.Sequential(*layers, backend="numpy", input_shape=(6,))

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

    data = svd.Dataset("fuzz", x[:, 0, 0], np.array([0, 1, 2, 0]), x[:, 0, 1], np.array([0, 1, 2, 0]), None, 3, "")
    run = folder / "run"

    def trainer() -> Trainer:
        plain = svd.Sequential(svd.VariationalDense(8, 3), backend="numpy")
        return Trainer(plain, data, svd.TrainConfig(epochs=4, batch_size=2))

    def resume(path: Path) -> list[Any]:
        again = trainer()
        resuming.restore(again, as_run(path, 8))
        return [again.arrays(), again.progress, again.model.config()]

    svd.fit((first := trainer()).model, data, first.config, run_dir=run, progress=False)
    result = {"dataset": "digits, random labels", "test_error": 0.1, "layer_sparsity": {"dense1": 0.9}, "seed": 3}

    alphas = {"dense1": np.random.default_rng(1).normal(size=(16, 5)), "dense2": np.zeros((5, 3))}

    def model_file(read: Callable[..., Any], write: Callable[[Path], Any], name: str) -> Target:
        return Target("case.safetensors", made(name, write), lambda path: read(path, "numpy"), predict, resign)

    def npz_file(read: Callable[[Path], Any], use: Callable[[Any], Any], write: Callable[[Path], Any]) -> Target:
        return Target("case.npz", made("own.npz", write), read, use, change_npz, checked=False)

    return {
        "model": model_file(svd.Sequential.load, model.save, "model.safetensors"),
        "compact": model_file(svd.SparseModel.load, small.save, "compact.safetensors"),
        "svdz": Target(
            "case.svdz", made("net.svdz", lambda path: svd.save_packed(path, small)),
            lambda path: svd.load_packed(path, "numpy"), predict, repack,
        ),
        "net.npz": Target(
            "case.npz", made("net.npz", small.export_numpy), net_reader.load,
            predict_export, change_export,
        ),
        "recurrent.npz": npz_file(
            lambda path: svd.RecurrentModel.load(path, "numpy"), lambda read: read.predict([[0, 1, 2]]),
            lambda path: svd.compress(letters, backend="numpy").save(path),
        ),
        "frames.npz": npz_file(FrameRecorder.load, lambda read: read.save(folder / "again.npz"), frames),
        "log_alpha.npz": npz_file(load_log_alphas, lambda read: read, lambda path: save_log_alphas(path, alphas, 3.0)),
        "metrics.jsonl": Target(
            "case.jsonl", (run / "metrics.jsonl").read_bytes(), read_log, lambda read: read, change_log, checked=False
        ),
        "checkpoint": Target(
            "case.ckpt", as_file(run / "checkpoints" / "ckpt-00000008"), resume, lambda read: read, change_checkpoint
        ),
        "result.json": Target(
            "result.json", json.dumps(result).encode(), lambda path: read_result(path.parent),
            lambda _: recorded_dataset(folder), change_result, checked=False,
        ),
        "PyTorch": Target(
            "case.safetensors", made("torch.safetensors", lambda path: svd.save_torch_state_dict(path, model)),
            lambda path: svd.from_torch_state_dict(model, path), model.copy().init_from, change_torch, checked=False,
        ),
        "IDX": Target(
            "case-idx3-ubyte", idx_header((3, 4, 5)) + bytes(range(60)), read_idx, lambda read: read.sum(), change_idx,
            checked=False,
        ),
    }  # fmt: skip


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
        elif isinstance(part, svd.RecurrentModel):
            add([op.arrays() for op in part.ops])
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
            file = Path(scratch) / target.name
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
