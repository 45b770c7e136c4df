"""`Ranks`: the processes that share the steps of one run, numbered from 0; `join_ranks` finds those of MPI.

The number of ranks decides who computes what, never what is computed: nothing here gives a result that depends on it.
MPI's own sums may, so they are not used. Every rank has the whole network and all data; rank 0 writes.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from svd_numpy.checks import SvdValueError
from svd_numpy.kernels.backend import Array

if TYPE_CHECKING:
    from mpi4py import MPI

LAUNCH = "mpiexec -n 4 python -m mpi4py -m svd_numpy train --ranks --shards 4"


class Ranks:
    """A process on its own: the only rank. Also the base of `MpiRanks`.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and how many there are.
    """

    rank, size = 0, 1

    def gather(self, own: Array) -> Array:
        """Return the arrays (k, ...) of all ranks, one below the other: (size * k, ...)."""
        return own

    def add_up(self, array: Array) -> None:
        """Put the sum of all ranks' arrays into each of them, added along a binary tree of the ranks."""

    def spread(self, array: Array) -> None:
        """Put what is in the array of rank 0 into that of every rank."""

    def tell(self, message: Any) -> Any:
        """Return what rank 0 says, which JSON can hold."""
        return message

    def highest(self, number: int) -> int:
        """Return the highest of all ranks' numbers."""
        return number

    def wait(self) -> None:
        """Wait until all ranks are here."""


ALONE = Ranks()


class MpiRanks(Ranks):
    """The processes that `mpiexec` started."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._received = np.empty(0, np.uint8)

    def gather(self, own: Array) -> Array:
        """See `Ranks.gather`."""
        own = np.ascontiguousarray(own)
        everything = np.empty((self.size * len(own), *own.shape[1:]), own.dtype)
        self._comm.Allgather(own, everything)
        return everything

    def add_up(self, array: Array) -> None:
        """See `Ranks.add_up`: partners exchange their sums; a + b has the same bits as b + a."""
        if self._received.nbytes != array.nbytes:
            self._received = np.empty(array.nbytes, np.uint8)
        received = self._received.view(array.dtype)
        distance = 1
        while distance < self.size:
            partner = self.rank ^ distance
            self._comm.Sendrecv(array, partner, recvbuf=received, source=partner)
            array += received
            distance *= 2

    def spread(self, array: Array) -> None:
        """See `Ranks.spread`."""
        self._comm.Bcast(array)

    def tell(self, message: Any) -> Any:
        """See `Ranks.tell`."""
        words = json.dumps(message).encode() if self.rank == 0 else b""
        length = np.array(len(words))
        self.spread(length)
        sent = np.frombuffer(bytearray(words or bytes(int(length))), np.uint8)
        self.spread(sent)
        return json.loads(sent.tobytes())

    def highest(self, number: int) -> int:
        """See `Ranks.highest`."""
        return int(self.gather(np.array([number])).max())

    def wait(self) -> None:
        """See `Ranks.wait`."""
        self._comm.Barrier()


def join_ranks() -> Ranks:
    """Join the processes that `mpiexec` started with this one, and share the cores of the machine with them.

    The script must have been started by `python -m mpi4py`, which ends all ranks if one of them fails; without it, the
    others would wait for ever.

    Returns
    -------
    Ranks
        For `fit`, `train_mnist` and `train_cifar`.

    Raises
    ------
    SvdValueError
        If mpi4py or an MPI library is missing, or there are several ranks without mpi4py's launcher.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py finds no MPI library
        raise SvdValueError(
            f"ranks: mpi4py with an MPI library is needed ({error}); install it with: pip install 'svd-numpy[mpi]'"
        ) from error
    comm = MPI.COMM_WORLD
    if comm.Get_size() > 1 and "mpi4py.run" not in sys.modules:
        raise SvdValueError(
            f"ranks: got {comm.Get_size()} without mpi4py's launcher, so that one which fails would leave the others "
            f"waiting for ever; start them like this: {LAUNCH}"
        )
    _share_cores(comm)
    return MpiRanks(comm)


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]


def _share_cores(comm: MPI.Comm) -> None:
    """Let this rank compute on its share of the cores: those that it may use, divided among all who may use them."""
    from mpi4py import MPI

    own, cores = np.zeros(1024, np.uint8), usable_cores()
    own[[core % len(own) for core in cores]] = 1
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    everyone = np.empty((local.Get_size(), len(own)), np.uint8)
    local.Allgather(own, everyone)
    local.Free()
    sharing = int((everyone == own).all(axis=1).sum())
    try:
        import numba
    except ImportError:
        return  # the NumPy backend's threads are those of its BLAS library
    numba.set_num_threads(min(numba.get_num_threads(), max(1, len(cores) // sharing)))
