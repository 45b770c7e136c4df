"""benchmarks/search_finetuning.py: ways to fine-tune one network, measured on images that it has not seen."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import svd_numpy as svd


def test_ways_start_from_one_network_and_leave_what_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_pictures: None
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    script = importlib.import_module("search_finetuning")
    monkeypatch.setitem(script.BASES, "digits", script.Base(dataset="digits", held_out=137, epochs=1))
    monkeypatch.setattr(svd, "train_mnist", partial(svd.train_mnist, epochs=2))
    monkeypatch.setattr(script, "OUT", tmp_path / "table")
    words = ["digits", "--folder", str(tmp_path / "runs"), "--compression"]
    script.main([*words, "5", "20", "--ways", "still", "moved"])

    run, data = script.trained("digits", tmp_path / "runs")
    np.testing.assert_array_equal(data.x_valid, svd.load("digits").split(137).x_valid)
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    outputs = svd.Sequential.load(run / "model.safetensors").predict(data.x_valid)
    assert record["stage"] == "variational" and record["valid_error"] == np.mean(outputs.argmax(1) != data.y_valid)

    found = json.loads((tmp_path / "table.json").read_text())["rows"].values()
    assert {(row["compression"], row["way"]) for row in found} == {(c, w) for c in (5, 20) for w in ("still", "moved")}
    assert all(row["then"] == pytest.approx(row["compression"], rel=1e-3) for row in found)
    written = (run / "metrics.jsonl").stat().st_mtime_ns
    script.main([*words, "10", "--ways", "still"])
    assert (run / "metrics.jsonl").stat().st_mtime_ns == written
    page = (tmp_path / "table.md").read_text()
    assert [page.count(f"| {c}x | still |") for c in (5, 10, 20)] == [1, 1, 1]
