# SPDX-License-Identifier: Apache-2.0
"""Resident memory of this process; Linux with glibc only."""

import ctypes
import gc
import pathlib

_PROCESS = pathlib.Path("/proc/self")
_RESET_PEAK = "5"


def _read_status(field) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status must have {field}. Received: none.")


def read_resident() -> int:
    """Returns the bytes that the process holds now."""
    return _read_status("VmRSS")


def read_peak() -> int:
    """Returns the most bytes that the process held since `reset_peak`."""
    return _read_status("VmHWM")


def reset_peak() -> int:
    """Gives free memory back, forgets the peak, and returns what is held."""
    gc.collect()
    # Free memory that the process keeps would hide what a step takes.
    ctypes.CDLL(None).malloc_trim(0)
    held = read_resident()
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    return held
