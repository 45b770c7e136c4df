"""A small trial of `campaigns/memory.py`: trainings and predictions do not pile up in memory."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from processes import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "campaigns" / "memory.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("memory", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_trial_stays_flat(tmp_path: Path, campaign: ModuleType) -> None:
    assert campaign.main(["--share", "0.04", "--backend", "numpy", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert rows["fit"]["times"] == 10 and rows["predict"]["times"] == 400
    assert all(row["flat"] for row in rows.values())
    assert "| predict | 400 |" in (tmp_path / "memory.md").read_text()


def test_it_sees_what_piles_up(tmp_path: Path, campaign: ModuleType) -> None:
    memory, handles = list[mmap.mmap](), list[int]()

    def keep() -> None:  # pages of their own: `bytes` may be put where something was freed before
        memory.append(mmap.mmap(-1, 2**20))
        memory[-1].write(b"x" * 2**20)

    assert not campaign.measure(keep, 20)["flat"]
    assert not campaign.measure(lambda: handles.append(os.open(tmp_path, os.O_RDONLY)), 20)["flat"]
    for handle in handles:
        os.close(handle)
    assert campaign.measure(lambda: b"x" * 2**20, 20)["flat"]
