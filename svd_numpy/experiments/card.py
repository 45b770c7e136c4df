"""A model card: what a network is, how it was trained, what it can do and how to load it, from the files of its run.

The form is that of Mitchell et al. (2019), *Model cards for model reporting*, with the metadata that model hubs read: a
YAML header, in which each value is written as JSON, which YAML contains.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svd_numpy.checks import SvdError, SvdValueError, as_path
from svd_numpy.experiments.methods import DEFAULT, METHODS
from svd_numpy.experiments.options import Options
from svd_numpy.experiments.recipes import get_recipe
from svd_numpy.experiments.run import configure
from svd_numpy.experiments.run_files import need, read_result
from svd_numpy.files import checkpoint
from svd_numpy.files.atomic import write_atomic
from svd_numpy.files.run_log import read_log

CARD = "README.md"
_MODEL = "model.safetensors"


def model_card(run_dir: str | Path, exported: Sequence[str | Path] = ()) -> str:
    """Write the card of a finished run on images as Markdown.

    Parameters
    ----------
    run_dir : path
        Folder of the run. Every figure comes from its `result.json`, `metrics.jsonl` and checkpoint.
    exported : paths, optional
        Files with other forms of the network, whose sizes the card gives, too.

    Raises
    ------
    SvdValueError
        If the run is not finished, or not one of `train_mnist` or `train_cifar`.
    """
    folder = as_path("run_dir", run_dir)
    found = read_result(folder)
    if "arch" not in found or "test_error" not in found:
        raise SvdValueError(f"{folder} holds no finished run on images; expected one of train_mnist or train_cifar")
    last, config = read_log(need(folder / "metrics.jsonl"))[-1], _config(folder)
    command, changed = _command(found, config, "valid_error" in last)
    parts = [_header(found), _what(found), _figures(found, last), _layers(found), _training(found, command, changed)]
    files = [need(folder / _MODEL), *(as_path("exported", path) for path in exported)]
    return "\n".join([*parts, _use(found, files)])


def write_card(run_dir: str | Path, exported: Sequence[str | Path] = (), path: str | Path | None = None) -> Path:
    """Write the `model_card` of a run to `path`, or else to README.md in its folder. Returns the path."""
    path = as_path("run_dir", run_dir) / CARD if path is None else as_path("path", path)
    write_atomic(path, model_card(run_dir, exported).encode())
    return path


def _config(folder: Path) -> dict[str, Any]:
    """The configuration in the newest checkpoint; {} if that has been deleted."""
    try:
        config: dict[str, Any] = checkpoint.load(folder / "checkpoints").state["config"]
    except (SvdError, FileNotFoundError, KeyError):
        return {}
    return config


def _header(found: Mapping[str, Any]) -> str:
    dataset = str(found["dataset"]).partition(",")[0]
    measured = [
        {"type": "error", "name": "test error", "value": found["test_error"]},
        {"type": "nll", "name": "test NLL, nats per image", "value": found["test_nll"]},
        {"type": "compression", "name": "all weights / weights kept", "value": found["compression"]},
    ]
    task = {"type": "image-classification"}
    values = {
        "library_name": "svd_numpy",
        "pipeline_tag": "image-classification",
        "tags": ["sparse", "pruning", found["method"], found["arch"]],
        "datasets": [dataset],
        "model-index": [
            {
                "name": _name(found),
                "results": [{"task": task, "dataset": {"type": dataset, "name": dataset}, "metrics": measured}],
            }
        ],
    }
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---", ""])


def _name(found: Mapping[str, Any]) -> str:
    return f"{found['arch']}-{found['method']}-{found['dataset']}-seed{found['seed']}".replace(", ", "-")


def _what(found: Mapping[str, Any]) -> str:
    method = "Sparse Variational Dropout (Molchanov, Ashukha and Vetrov, 2017; not the singular value decomposition)"
    if found["method"] != DEFAULT:
        method = METHODS[found["method"]].title if found["method"] in METHODS else found["method"]
    elif found["kind"] != "variational":
        method = f"nothing: its layers are of kind `{found['kind']}`, as a baseline"
    lines = [
        f"# {_name(found)}",
        "",
        f"A {found['arch']} network that classifies images of {found['dataset']}. It was made small by {method}.",
        "",
    ]
    if found["warning"]:
        lines += [f"**Note:** {found['warning']}", ""]
    return "\n".join(lines)


def _figures(found: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    rows = [
        ("test error", f"{100 * found['test_error']:.2f} %"),
        ("test NLL, nats per image", f"{found['test_nll']:.4f}"),
        ("training error, last epoch", f"{100 * found['train_error']:.2f} %"),
        ("compression: all weights / weights kept", f"{found['compression']:.1f}"),
    ]
    if last.get("valid_error") is not None:
        rows.insert(2, ("error on held-out training images", f"{100 * last['valid_error']:.2f} %"))
    return _table(("measure", "value"), rows, f"Figures: {found['n_test']:,} test images, measured after training")


def _layers(found: Mapping[str, Any]) -> str:
    live = found["live_units"]
    rows = [
        (name, f"{100 * share:.2f} %", " of ".join(f"{count:,}" for count in live[name]) if name in live else "")
        for name, share in found["layer_sparsity"].items()
    ]
    return _table(("layer", "weights that are 0", "live units"), rows, "Layers") if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([f"## {title}", "", lines[0], "|---" * len(head) + "|", *lines[1:], ""])


def _training(found: Mapping[str, Any], command: str, changed: Mapping[str, Any]) -> str:
    lines = [
        "## Training",
        "",
        f"* Data: {found['n_train']:,} training images of {found['dataset']}; the test images decided nothing",
        f"* Recipe: `{found['recipe']}` of svd_numpy, KL weight {found['kl_weight']:g}, seed {found['seed']}",
        f"* {found['epochs']} epochs in {found['seconds']:.0f} seconds on backend `{found['backend']}`"
        + (", the last ones on the weights that were left" if found["finetuned"] else ""),
    ]
    if found["init_from"]:
        lines.append("* It started from given weights, which the run does not hold; the command needs `--init-from`")
    if changed:
        numbers = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        lines.append(f"* Numbers that differ from the recipe (`changes`): {numbers}")
    return "\n".join([*lines, "", "```sh", "pip install svd-numpy", command, "```", ""])


def _command(found: Mapping[str, Any], config: Mapping[str, Any], held_out: bool) -> tuple[str, dict[str, Any]]:
    """The command line that trains this, and what its recipe does not say."""
    options: dict[str, Any] = {
        name: found[name] for name in ("arch", "width", "recipe", "method", "kind", "kl_weight", "seed")
    }
    recipe = METHODS[found["method"]].adapt(get_recipe(found["arch"], found["recipe"]))
    changed = dict[str, Any]()
    if config:
        if config["epochs"] != recipe.config.epochs:
            options["epochs"] = config["epochs"]
        start = recipe.config
        if found["kind"] != "variational" and found["method"] == DEFAULT:
            start = replace(start, finetune_epochs=0, remove_above=None)
        expected = configure(start, Options(dataset="auto", backend="numpy", **options)).to_json()
        changed = {
            name: value
            for name, value in config.items()
            if name not in ("eval_every", "seed") and value != expected.get(name)
        }
    defaults = {field: Options.__dataclass_fields__[field].default for field in options}
    dataset, _, labels = str(found["dataset"]).partition(", ")
    words = ["svd-numpy", "train-cifar" if found["arch"] == "vgg-like" else "train", "--dataset", dataset]
    for name, value in options.items():
        if value != defaults[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--random-labels"] if labels else []
    if "batch_size" in changed:
        words += ["--batch-size", str(changed.pop("batch_size"))]
    return shlex.join(words) + ("  # and --held-out, with the share that was held out" if held_out else ""), changed


def _use(found: Mapping[str, Any], files: Sequence[Path]) -> str:
    lines = [
        "import svd_numpy as svd",
        "",
        f'model = svd.Sequential.load("{_MODEL}")',
        f'data = svd.load("{str(found["dataset"]).partition(",")[0]}")',
        "print(model.predict(data.x_test[:5]).argmax(axis=1), data.y_test[:5])",
        "small = svd.compress(model)  # only the weights that are left",
    ]
    rows = [(f"`{path.name}`", f"{path.stat().st_size:,}") for path in files]
    sizes = _table(("file", "bytes"), rows, "Files")
    return "\n".join(
        ["## Use", "", "```python", *lines, "```", "", "`svd-numpy evaluate .` measures it again.", "", sizes]
    )
