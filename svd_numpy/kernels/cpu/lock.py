"""The one lock around Numba's threads, shared by everything that starts a parallel kernel."""

from __future__ import annotations

import threading

# Numba's `workqueue` threading layer aborts the process when two Python threads start parallel kernels at once.
KERNEL_LOCK = threading.Lock()
