"""Figures as files. A picture that fails is said and left out: it never stops the run that it shows."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svd_numpy.files.atomic import write_atomic


def save_figure(figure: Any, path: Path) -> None:
    """Write a Figure as a PNG file, whole or not at all; a DiskError if it cannot be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())


def try_to_draw(draw: Callable[[], Any], path: Path) -> None:
    """Write the Figure that `draw` returns; if that fails for whatever reason, warn."""
    try:
        save_figure(draw(), path)
    except Exception as error:
        warnings.warn(f"{path.name} is left out, because it could not be drawn: {error}", stacklevel=3)
