"""Downloading a data set into the cache: pinned digests, several mirrors, no half-written file."""

from __future__ import annotations

import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from svd_numpy.data.pinned import FileSet, FileSpec

PROBE_SECONDS = 5.0
STALL_SECONDS = 10.0
_AGENT = {"User-Agent": "svd-numpy", "Accept-Encoding": "identity"}


def download(file_set: FileSet, folder: Path) -> None:
    """Download every file of a set, or its archive, into `folder`; files already there with the pinned digest are kept.

    Each file is written under a temporary name beside its place, checked against its SHA-256, then moved.

    Raises
    ------
    OSError
        If the mirrors did not deliver every file; the message has a line for each failure.
    """
    first = file_set.downloads[0]
    if not any_answers([f"{mirror}{first.name}.gz" for mirror in file_set.mirrors], PROBE_SECONDS):
        raise OSError(f"no mirror answered within {PROBE_SECONDS:.0f} s: there seems to be no network")
    mirrors = list(file_set.mirrors)
    failures: list[str] = []
    for spec in file_set.downloads:
        _download_file(spec, mirrors, folder, failures)


def any_answers(urls: Sequence[str], seconds: float) -> bool:
    """Ask all URLs at once whether any server is there; any HTTP answer counts, even a refusal.

    Threads are needed because a name look-up, or a host with many addresses, does not keep to a time limit. Where there
    are none, as in a browser, one is asked after the other.
    """
    answers: queue.Queue[bool] = queue.Queue()
    for url in urls:
        try:
            threading.Thread(target=lambda u=url: answers.put(_answers(u, seconds)), daemon=True).start()
        except RuntimeError:
            return any(_answers(url, seconds) for url in urls)
    deadline = time.monotonic() + seconds
    for _ in urls:
        try:
            if answers.get(timeout=max(0.0, deadline - time.monotonic())):
                return True
        except queue.Empty:
            break
    return False


def _answers(url: str, seconds: float) -> bool:
    request = urllib.request.Request(url, method="HEAD", headers=_AGENT)
    try:
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, HTTPException, ValueError):
        return False
    return True


def _download_file(spec: FileSpec, mirrors: list[str], folder: Path, failures: list[str]) -> None:
    import pooch

    while mirrors:
        url = f"{mirrors[0]}{spec.name}.gz"
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{spec.gz_sha256}",
                fname=f"{spec.name}.gz",
                path=folder,
                downloader=_capped_downloader(spec.gz_bytes),
            )
            return
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{url}: {error}")
            del mirrors[0]  # so that a bad mirror costs its time limit once, not once per file
    raise OSError("\n".join(failures))


def _capped_downloader(max_bytes: int) -> Callable[[str, Any, Any], None]:
    """Return a downloader for pooch that stops when a mirror sends more than the pinned size.

    It keeps the bytes as they are sent: a client that honours ``Content-Encoding: gzip`` would unpack the very
    file whose digest is pinned.
    """

    def fetch_url(url: str, output_file: Any, _pooch: Any) -> None:
        request = urllib.request.Request(url, headers=_AGENT)
        os.unlink(output_file)  # pooch made it for its owner alone: other users may read a cache that they share
        try:
            with (
                urllib.request.urlopen(request, timeout=STALL_SECONDS) as answer,
                open(output_file, "xb") as out,
            ):
                written = 0
                while piece := answer.read(1 << 16):
                    written += len(piece)
                    if written > max_bytes:
                        raise OSError(f"sends more than the expected {max_bytes} bytes")
                    out.write(piece)
        except urllib.error.HTTPError as error:
            error.close()
            raise OSError(f"HTTP {error.code} {error.reason}") from None

    return fetch_url
