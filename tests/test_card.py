"""Model cards: valid metadata, figures that are those of the run's files, and code and commands that work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import svd_numpy as svd
from svd_numpy.cli.main import main, parse
from svd_numpy.experiments.card import model_card

yaml = pytest.importorskip("yaml", reason="reads the header; comes with Jupyter")
SMALL: dict[str, Any] = {"dataset": "digits", "recipe": "small", "epochs": 3, "backend": "numpy", "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svd_numpy.plots.picture.try_to_draw", lambda draw, path: None)
        svd.train_mnist(
            **SMALL, run_dir=folder, seed=3, kl_weight=2.0, held_out=0.1, batch_size=50, changes={"lr": 2e-3}
        )
    return folder


def header(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    read: dict[str, Any] = yaml.safe_load(head)
    return read


def test_the_header_is_yaml_with_the_figures_of_the_run(run: Path) -> None:
    head, result = header(model_card(run)), json.loads((run / "result.json").read_text())
    assert head["library_name"] == "svd_numpy" and head["datasets"] == ["digits"]
    (model,) = head["model-index"]
    figures = {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert figures == {
        "error": result["test_error"], "nll": result["test_nll"], "compression": result["compression"],
    }  # fmt: skip


def test_the_text_says_what_the_files_say(run: Path) -> None:
    card, result = model_card(run), json.loads((run / "result.json").read_text())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for words in (
        f"| test error | {100 * result['test_error']:.2f} % |",
        f"| error on held-out training images | {100 * last['valid_error']:.2f} % |",
        f"compression: all weights / weights kept | {result['compression']:.1f} |",
        f"`model.safetensors` | {(run / 'model.safetensors').stat().st_size:,} |",
        "lr=0.002",
        "not the singular value decomposition",
        *(f"| {name} | {100 * share:.2f} % |" for name, share in result["layer_sparsity"].items()),
    ):
        assert words in card, words


def test_its_command_trains_this_network(run: Path) -> None:
    """But for the numbers that the command line does not take, which stand beside it."""
    (line,) = re.findall(r"^svd-numpy train .*$", model_card(run), re.MULTILINE)
    command: Any = parse(shlex.split(line, comments=True)[1:])
    given = {
        name: getattr(command, name) for name in ("dataset", "recipe", "epochs", "seed", "kl_weight", "batch_size")
    }
    assert given == {
        "dataset": "digits", "recipe": "small", "epochs": 3, "seed": 3, "kl_weight": 2.0, "batch_size": 50,
    }  # fmt: skip


def test_its_code_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", model_card(run), re.DOTALL)
    monkeypatch.chdir(run)
    exec(code, {})


def test_a_run_as_the_recipe_says_has_no_changes(tmp_path: Path, blank_pictures: None) -> None:
    svd.train_mnist(**SMALL, run_dir=tmp_path, kind="dropout")
    assert "differ from the recipe" not in model_card(tmp_path)


def test_exports_have_a_card_beside_them(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export-c", str(run), "--folder", str(tmp_path / "net")]) == 0
    assert "model card:" in capsys.readouterr().out
    card = (tmp_path / "net" / "MODEL_CARD.md").read_text()
    assert header(card) and f"`net.c` | {(tmp_path / 'net' / 'net.c').stat().st_size:,} |" in card
    assert main(["card", str(run)]) == 0
    assert (run / "README.md").read_text() == model_card(run)


def test_a_folder_without_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(svd.SvdValueError, match="holds no finished run on images"):
        model_card(tmp_path)
