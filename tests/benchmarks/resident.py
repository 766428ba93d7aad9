"""How much memory a run needs, on Linux."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def peak_above_rest(run: Callable[[], object]) -> int:
    """Bytes by which the most memory that is resident while ``run()`` works exceeds what was before."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
