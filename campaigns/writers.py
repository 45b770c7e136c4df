"""Everything in the package that writes files, each made to write something old and something new."""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import svd_numpy as svd
from svd_numpy.data import sources
from svd_numpy.data.manage import import_folder
from svd_numpy.data.pinned import FILE_SETS, FileSet, FileSpec
from svd_numpy.experiments.card import write_card
from svd_numpy.experiments.counts import count
from svd_numpy.experiments.published import ROWS
from svd_numpy.experiments.reproduce import Reproduction
from svd_numpy.experiments.result import TrainResult
from svd_numpy.experiments.run_files import save_log_alphas
from svd_numpy.experiments.series import TrainResults, begun
from svd_numpy.experiments.sweep.result import SweepResult
from svd_numpy.experiments.sweep.sweeping import keep_plan
from svd_numpy.experiments.uncertainty import UncertaintyReport, measure_uncertainty
from svd_numpy.files import checkpoint
from svd_numpy.files.run_log import read_log
from svd_numpy.plots.frames import FrameRecorder
from svd_numpy.plots.picture import save_figure
from svd_numpy.train import loop
from svd_numpy.train.trackers import keep_run_id

State = dict[str, Any]
OURS = (".tmp-", ".old-", ".lock")  # the beginnings of names that readers do not look at


@dataclass(frozen=True)
class Writer:
    """Something that writes into a folder.

    Attributes
    ----------
    write : function (folder, which)
        Writes content number 0 (the old one) or 1 (the new one).
    state : function (folder) -> dict
        What a reader finds there, by name.
    together : str
        The file without which a reader takes the others for unfinished, if all are replaced together; "" if each is
        replaced by itself.
    modules : tuple of str
        Files of the package in which it calls functions that write.
    run : bool
        Whether it is a training run, which starts afresh and, once begun, is resumed.
    """

    write: Callable[[Path, int], Any]
    state: Callable[[Path], State]
    modules: tuple[str, ...] = ()
    together: str = ""
    run: bool = False


def files(folder: Path) -> State:
    """Content of all files below a folder, without what an interrupted writer left."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(part.startswith(OURS) for part in Path(name).parts):
            found[name] = path.read_bytes()
    return found


def networks() -> list[svd.Sequential]:
    """Two networks of one shape."""
    made = []
    for seed in range(2):
        layers = svd.VariationalDense(12, 8), svd.ReLU(), svd.VariationalDense(8, 3)
        model = svd.Sequential(*layers, backend="numpy", seed=seed)
        model.variational_layers[0].log_sigma2[seed::2] = 5
        made.append(model)
    return made


def recurrent_network(seed: int) -> svd.Sequential:
    """A small one that reads letters."""
    layers = svd.VariationalLSTM("abcde", 4, tokens=True), svd.VariationalDense(4, 5)
    return svd.Sequential(*layers, backend="numpy", seed=seed, input_shape=(6,))


def figure(words: Any) -> Any:
    """Draw these words."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(1, 1))
    drawn.suptitle(str(words))
    return drawn


def without_pictures() -> None:
    """Let the pictures of results be small ones: drawing takes a second, and writing is the same for all."""
    TrainResult.plot = lambda self: figure(self.model.seed)
    SweepResult.plot = lambda self: figure(self.rows[0]["seed"])
    TrainResults.plot = lambda self: figure(self[0].model.seed)
    UncertaintyReport.plot = lambda self: figure(self.rows["pruned"].nll)


def file_writers() -> dict[str, Writer]:
    """Writers of single files."""
    models = networks()
    small = [svd.compress(model, backend="numpy") for model in models]
    rng = np.random.default_rng(0)
    frames = []
    for epochs in (2, 3):
        recorder = FrameRecorder((4, 4))
        for epoch in range(epochs):
            recorder.add(epoch + 1, rng.normal(size=(16, 5)), rng.normal(size=(16, 5)), 0.0, 0.1, 0.5)
        frames.append(recorder)
    alphas = [{"dense1": rng.normal(size=(16, 5))} for _ in range(2)]

    calibration = rng.normal(size=(40, 12))
    readers = [
        svd.sparsify(svd.Sequential(svd.VariationalDense(784, 4), svd.VariationalDense(4, 10), seed=seed), -6.0)
        for seed in range(2)
    ]
    digits, labels = rng.integers(0, 256, (50, 784), np.uint8), np.arange(50) % 10

    recurrent = [svd.compress(recurrent_network(seed), backend="numpy") for seed in range(2)]

    def write_page(path: Path, which: int) -> None:
        svd.export_html(readers[which], path, digits, labels)

    def gif(path: Path, which: int) -> None:
        from svd_numpy.plots.animate import render_gif

        render_gif(frames[which], path, width_px=320)

    def single(name: str, write: Callable[[Path, int], Any], *modules: str) -> Writer:
        return Writer(lambda folder, which: write(folder / name, which), files, modules)

    return {
        "model": single("model.safetensors", lambda path, i: models[i].save(path), "files/safe_arrays.py"),
        "compact model": single("small.safetensors", lambda path, i: small[i].save(path), "files/safe_arrays.py"),
        "svdz": single("net.svdz", lambda path, i: svd.save_packed(path, small[i]), "sparse/storage/packed.py"),
        "net.npz": single("net.npz", lambda path, i: small[i].export_numpy(path), "sparse/files.py"),
        "ONNX": single("net.onnx", lambda path, i: svd.export_onnx(small[i], path), "exchange/onnx_graph.py"),
        "PyTorch": single(
            "torch.safetensors", lambda path, i: svd.save_torch_state_dict(path, models[i]), "exchange/torch_names.py"
        ),
        "recurrent.npz": single("recurrent.npz", lambda path, i: recurrent[i].save(path), "files/npz.py"),
        "frames.npz": single("frames.npz", lambda path, i: frames[i].save(path), "files/npz.py"),
        "log_alpha.npz": single("log_alpha.npz", lambda path, i: save_log_alphas(path, alphas[i], 3.0), "files/npz.py"),
        "run in MLflow": single("mlflow.txt", lambda path, i: keep_run_id(path, 32 * str(i)), "train/trackers.py"),
        "figure": single("figure.png", lambda path, i: save_figure(figure(i), path), "plots/picture.py"),
        "animation": single("sparsity.gif", gif, "plots/animate.py"),
        "CSR": Writer(
            lambda folder, i: svd.export_csr(small[i], folder / "csr"),
            lambda folder: files(folder / "csr") or files(folder / ".old-csr"),  # between two renames
            ("exchange/csr.py",),
        ),
        "C": Writer(
            lambda folder, i: svd.export_c(small[i], folder / "net", calibration=calibration),
            files,
            ("exchange/c/export.py",),
            together="net/net.c",
        ),
        "web page": single("page.html", write_page, "exchange/page/html.py"),
        "page that writes": single(
            "writer.html", lambda path, i: svd.export_writer(recurrent[i], path), "exchange/page/writer.py"
        ),
        "checkpoint": Writer(save_checkpoint, newest, ("files/checkpoint.py",)),
        "data import": Writer(import_data, lambda folder: files(folder / "cache"), ("data/manage.py",)),
    }  # fmt: skip


def save_checkpoint(folder: Path, which: int) -> None:
    """Write a checkpoint of a later step, then one of the same step again."""
    for content in range(which, which + 2):
        checkpoint.save(folder, which + 1, {"a": np.full(40, content)}, {"content": content})


def newest(folder: Path) -> State:
    """The newest sound checkpoint; the second of a step and the first are the same to the judge."""
    if checkpoint.latest(folder) is None:
        return {}
    found = checkpoint.load(folder)
    if found.skipped or not (found.arrays["a"] == found.state["content"]).all():
        return {"damaged": found.skipped}
    return {"step": found.step}


def import_data(folder: Path, which: int) -> None:
    """Import a tiny data set, old and new being its compressed and its plain form, into a cache in the folder."""
    raw = np.arange(12, dtype=np.uint8)
    raw = b"\0\0\x08\1" + len(raw).to_bytes(4, "big") + raw.tobytes()
    spec = FileSpec("train-labels-idx1-ubyte", (12,), hashlib.sha256(raw).hexdigest(), 1, "")
    tiny = FileSet("mnist", "a tiny set", (spec,), ("mnist",), (), 12)
    with (
        tempfile.TemporaryDirectory() as source,
        patch.dict(FILE_SETS, {"mnist": tiny}, clear=True),
        patch("pooch.os_cache", lambda _: folder / "cache"),
        patch.object(sources, "_other_owner", lambda *_: ""),
    ):
        (Path(source) / f"{spec.name}{('.gz', '')[which]}").write_bytes((gzip.compress(raw, mtime=0), raw)[which])
        import_folder(source)


# ---- results, and runs ----


def train(folder: Path | None = None, **changes: Any) -> Any:
    """Train on the digits for two epochs and, with a folder, save a checkpoint after each; go on with what is begun."""
    settings: dict[str, Any] = {
        "dataset": "digits", "backend": "numpy", "epochs": 2, "batch_size": 500, "progress": False, "run_dir": folder,
    }  # fmt: skip
    settings |= {"resume": folder is not None and any(map(begun, (folder, *folder.glob("seed-*"))))}
    with patch.object(loop, "SAVE_SECONDS", 0.0):
        return svd.train_mnist(**(settings | changes))


def result_writers() -> dict[str, Writer]:
    """Writers of files that belong together."""
    results: list[TrainResult] = [train(seed=seed, epochs=1) for seed in range(2)]
    data = results[0].data
    noisy = [svd.Sequential(svd.VariationalDense(784, 10), backend="numpy", seed=seed) for seed in range(2)]
    reports = [measure_uncertainty(one, inside=data, outside=data, n=2) for one in noisy]
    series = [TrainResults([one, one]) for one in results]
    texts = [
        svd.train_text(dataset="reviews-text", units=4, lanes=32, epochs=1, seed=seed, backend="numpy", progress=False)
        for seed in range(2)
    ]
    rows = [
        {"lr": lr, "seed": seed, "valid_error": 0.1, "valid_nll": 1.0, "compression": 2.0, "seconds": 1.0}
        for seed, lr in enumerate((1e-3, 2e-3))
    ]

    def write_sweep(folder: Path, i: int) -> None:
        keep_plan(folder, {"experiment": "mnist"})
        SweepResult([rows[i]], ["lr"], {}).save(folder)

    homes = [tempfile.TemporaryDirectory() for _ in range(2)]
    for seed, home in enumerate(homes):
        train(Path(home.name), seed=seed, epochs=1)
    name = "300-100 sparse-vd"
    counts = [{name: [count(run, ROWS[name]) for run in runs]} for runs in series]
    papers = [Reproduction({name: runs}, counted, quick=True) for runs, counted in zip(series, counts, strict=True)]
    return {
        "text result": Writer(
            lambda folder, i: texts[i].save(folder), files, ("experiments/text_result.py",), together="result.json"
        ),
        "result": Writer(
            lambda folder, i: results[i].save(folder), files, ("experiments/result.py",), together="result.json"
        ),
        "sweep": Writer(
            write_sweep, files, ("experiments/sweep/result.py", "experiments/sweep/sweeping.py"), together="sweep.md"
        ),
        "model card": Writer(
            lambda folder, i: write_card(homes[i].name, path=folder / "README.md"), files, ("experiments/card.py",)
        ),
        "series": Writer(
            lambda folder, i: series[i].save(folder), files, ("experiments/series.py",), together="results.txt"
        ),
        "reproduction": Writer(
            lambda folder, i: papers[i].save(folder), files, ("experiments/reproduce.py",), together="reproduce.md"
        ),
        "uncertainty": Writer(
            lambda folder, i: reports[i].save(folder), files, ("experiments/uncertainty.py",),
            together="uncertainty.json",
        ),
    }  # fmt: skip


def run_writers() -> dict[str, Writer]:
    """Whole training runs: with `fit`, with `train_mnist`, with several seeds."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 12)).astype(np.float32), rng.integers(0, 3, 60)
    data = svd.Dataset("own", x, y, x[:20], y[:20], None, 3, "")
    config = svd.TrainConfig(epochs=2, finetune_epochs=1, batch_size=20, seed=1)

    def fit(folder: Path, _: int) -> None:
        with patch.object(loop, "SAVE_SECONDS", 0.0):
            model = networks()[0]
            svd.fit(model, data, config, run_dir=folder, resume=begun(folder), progress=False)

    modules = "train/loop.py", "files/run_log.py", "files/checkpoint.py", "files/lock.py"
    return {
        "fit": Writer(fit, run_state, modules, run=True),
        "train_mnist": Writer(lambda folder, _: train(folder), run_state, modules, run=True),
        "two seeds": Writer(
            lambda folder, _: train(folder, seeds=(0, 1), epochs=1), run_state, (*modules, "experiments/series.py"),
            run=True,
        ),
    }  # fmt: skip


def run_state(folder: Path) -> State:
    """What must be the same after any interruption: everything but the seconds; of pictures, that they are there."""
    state: State = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            state[name] = [timeless(record) for record in read_log(path)]
        elif path.name == "result.json":
            state[name] = timeless(json.loads(path.read_bytes()))
        elif path.name == "checkpoints":
            found = checkpoint.load(path)
            arrays = {key: array.tobytes() for key, array in found.arrays.items()}
            state[name] = found.step, arrays, timeless(found.state)
        elif path.suffix in (".safetensors", ".npz") and "checkpoints" not in path.parts:
            state[name] = path.read_bytes()
        elif path.suffix in (".png", ".txt"):
            state[name] = True
    return state


def timeless(value: Any) -> Any:
    """Return JSON without the seconds in it."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in ("seconds", "ms_per_step")}
    return [timeless(item) for item in value] if isinstance(value, list) else value
