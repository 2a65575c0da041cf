"""What steps free is kept for the next ones, and returned when a run is over."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from zoo.base import memory
from zoo.training import hardware

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # as a step does: activations are made one after another, and freed together
        held = [torch.ones(500_000) for _ in range(20)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if "set_up" in sys.argv:
    hardware.set_up("cpu", 1)
faults()
steady, resident = faults(), memory.resident_bytes()
memory.return_freed_memory()
print(steady, resident - memory.resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux's library of C")
@pytest.mark.parametrize("more", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["usual", "said otherwise"])
def test_what_is_freed_is_kept_and_then_returned(more, monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", CODE, "set_up"], capture_output=True, text=True, check=True)
    steady, returned = map(int, done.stdout.split())
    written = 20 * 20 * 500_000 * 4 // 4096
    if more:
        assert steady > written / 2, "what the environment says stands"
    else:
        assert steady < written / 20
        assert returned > 20 * 500_000 * 4 / 2, "nothing is kept for good"
