"""What the tables of recurrent networks rest on: options of the experiments, counts, words, naive Bayes, the script."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.experiments.words import weigh_words
from svd_numpy.sparse.recurrent import count_weights

SMALL: dict[str, Any] = {"dataset": "reviews", "features": 4, "units": 4, "backend": "numpy", "progress": False}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "numpy")
    return importlib.import_module("text_tables")


def config_of(folder: Path) -> dict[str, Any]:
    manifest = next(folder.glob("checkpoints/*/manifest.json"))
    found: dict[str, Any] = json.loads(manifest.read_text())["state"]["config"]
    return found


def test_groups_removal_and_changes_reach_the_network_and_the_training(tmp_path: Path) -> None:
    groups = ("words", "inputs", "gates")
    result = svd.train_sentiment(
        **SMALL, groups=groups, remove_above=5.0, changes={"lr": 3e-3}, epochs=2, run_dir=tmp_path / "a"
    )
    found = [list(getattr(layer, "weight_groups", {})) for layer in result.model.layers]
    assert found == [["words"], ["inputs", "gates"], []]
    config = config_of(tmp_path / "a")
    assert (config["remove_above"], config["remove_from"], config["lr"]) == (5.0, 1, 3e-3)
    svd.train_sentiment(**SMALL, kind="dense", epochs=1, run_dir=tmp_path / "b")
    assert config_of(tmp_path / "b")["remove_above"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"groups": ("words",)},
            r"groups: got \('words',\), expected a list of some of \['inputs', 'units', 'gates'\]",
        ),
        ({"groups": "units"}, "expected a list of some of"),
        ({"groups": ("units",), "kind": "dense"}, "kind 'dense' has no groups"),
        ({"remove_above": 5.0, "kind": "dropout"}, "kind 'dropout' has no log alpha"),
        ({"changes": {"epochs": 3}}, "changes: got 'epochs'"),
        ({"kind": "gaussian-dropout"}, "kind: got 'gaussian-dropout'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(svd.SvdValueError, match=message):
        svd.train_text(**options)


def sentences_net() -> svd.Sequential:
    """Words a to d; only a and c are left, and unit 3 of the LSTM is read by nobody."""
    layers = (
        svd.VariationalEmbedding("_abcd", 3, padding=0, log_sigma2=-20),
        svd.VariationalLSTM(3, 4, every_step=False, log_sigma2=-20), svd.VariationalDense(4, 2, log_sigma2=-20),
    )  # fmt: skip
    model = svd.Sequential(*layers, backend="numpy", dtype="float64", input_shape=(5,), seed=1)
    model.parameters["embedding1.log_sigma2"][[0, 2, 4]] = 9
    model.parameters["embedding1.theta"][3] *= 4
    model.parameters["lstm1.log_sigma2"].reshape(7, 4, 4)[6] = 9  # the rows that read unit 3
    model.parameters["dense1.log_sigma2"][3] = 9
    return model


def test_weights_of_dead_units_are_not_counted() -> None:
    model = sentences_net()
    units = {"lstm1, inputs": (3 * 4 * 3, 3 * 16), "lstm1, recurrence": (3 * 4 * 3, 4 * 16)}
    assert count_weights(model) == {"embedding1": (2 * 3, 5 * 3), **units, "dense1": (3 * 2, 4 * 2)}
    small = svd.compress(model)
    assert sum(kept for kept, _ in count_weights(model).values()) == small.sizes()["weights"]


def test_what_a_word_says_is_what_it_does_alone() -> None:
    model = sentences_net()
    gains, bias = weigh_words(model), model.parameters["dense1.bias"]
    small = svd.compress(model, backend="numpy")
    assert list(gains) == ["c", "a"]
    for token, word in ((1, "a"), (3, "c")):
        small.reset()
        logits = small.step(token)
        assert gains[word] == pytest.approx(logits[1] - logits[0] - (bias[1] - bias[0]), rel=1e-5)
    with pytest.raises(svd.SvdValueError, match="expected a network that reads words"):
        weigh_words(svd.Sequential(svd.Dense(3, 2), backend="numpy"))


def test_naive_bayes_is_that_of_scikit_learn(script: Any) -> None:
    bayes = pytest.importorskip("sklearn.naive_bayes").MultinomialNB()
    data = svd.load("reviews")

    def counts(x: Any) -> Any:
        return np.stack([np.bincount(row[row != 0], minlength=len(data.vocabulary)) for row in x])[:, 1:]

    bayes.fit(counts(data.x_train), data.y_train)
    assert script.naive_bayes("reviews") == pytest.approx(100 * (1 - bayes.score(counts(data.x_test), data.y_test)))


def test_the_tables_are_written_and_no_run_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Any
) -> None:
    monkeypatch.setattr(script, "OUT", tmp_path / "results")
    given = ["--epochs", "1", "--units", "4", "--seeds", "0", "--folder", str(tmp_path / "runs")]
    letters = ["characters", "--dataset", "reviews-text", *given]
    script.main([*letters, "--only", "dense", "Sparse VD"])
    log = tmp_path / "runs" / "text-sparse-vd-seed0" / "metrics.jsonl"
    before = log.stat().st_mtime_ns
    script.main([*letters, "--only", "dense", "Sparse VD"])
    assert log.stat().st_mtime_ns == before
    runs = json.loads((tmp_path / "results" / "text-characters.json").read_text())["runs"]
    assert list(runs) == ["dense", "Sparse VD"] and runs["dense"][0]["best_epoch"] == 1
    gap = runs["Sparse VD"][0]["valid_nll"] - runs["dense"][0]["best_valid_nll"]
    page = (tmp_path / "results" / "text-characters.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| Sparse VD |")).split(" | ")
    assert row[1:6] == ["1", *[f"{runs['Sparse VD'][0]['valid_nll'] / math.log(2):.3f}"] * 2, *[f"{gap:.4f}"] * 2]
    script.main(["polarity", "--dataset", "reviews", *given, "--only", "dense", "Sparse VD, words"])
    page = (tmp_path / "results" / "text-polarity.md").read_text()
    assert "words left: Sparse VD, words, seed 0" in page and " praise:** " in page
