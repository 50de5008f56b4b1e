"""How much memory this process holds."""

import os
import sys
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The resident set now, in bytes; where the system does not say, the largest it has been.

    Source: proc(5), /proc/pid/statm, second field in pages; getrusage(2), ru_maxrss in KiB, on
    macOS in bytes.
    """
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def private_bytes() -> int:
    """The same without what lies in files that are mapped: the system takes those back by itself.

    Source: proc(5), /proc/pid/statm, third field: resident pages of files and shared memory.
    """
    try:
        _, resident, shared, *_ = _STATM.read_text(encoding="ascii").split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resident_bytes()
