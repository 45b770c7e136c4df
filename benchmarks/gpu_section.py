"""What the sections of `gpu_check.py` share: their report, PyTorch, and how numbers are compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


class Section:
    """Lines and numbers of one section, in its file at every moment."""

    def __init__(self, path: Path, trial: bool) -> None:
        self.path, self.trial = path, trial
        self.lines: list[str] = []
        self.raw: dict[str, Any] = {}

    def line(self, *texts: str) -> None:
        """Add lines to the report."""
        self.lines += texts
        self.path.write_text(json.dumps({"lines": self.lines, "raw": self.raw}))


def import_torch(tf32: bool = False) -> Any:
    """PyTorch, where it is there and sees the device; its products in float32, as ours, or in TF32."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device")
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    return torch


def distance(found: Iterable[Any], exact: Iterable[Any]) -> float:
    """Largest norm of a difference, relative to the norm of what is exact; NaN if one of them is."""
    pairs = zip(found, exact, strict=True)
    return float(np.max([np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) for a, b in pairs]))


def in_short(error: Exception, most: int = 150) -> str:
    """What went wrong, on one line of a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"
