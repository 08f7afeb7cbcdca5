"""lp.quantize gives the same bits on any number of threads and with any instruction set."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

import tf_lowprec

PACKAGE = pathlib.Path(tf_lowprec.__file__).resolve().parents[1]
SCRIPT = pathlib.Path(__file__).with_name("quantize_digest.py")


def cpu_flags():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


NEEDS = {"portable": set(), "avx2": {"avx2", "fma"}}
NEEDS["avx512"] = NEEDS["avx2"] | {"avx512f", "avx512dq", "avx512bw", "avx512vl"}


def digest(isa, threads):
    """What quantize_digest.py prints in a process of its own."""
    if not NEEDS[isa] <= cpu_flags():
        pytest.skip(f"{platform.machine()} CPU without {isa}")
    paths = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TF_LOWPREC_ISA": isa, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(threads)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("digest ")]
    return line


@pytest.fixture(scope="module")
def portable_on_one_thread():
    return digest("portable", 1)


@pytest.mark.parametrize("isa, threads", [("portable", 2), ("avx2", 2), ("avx512", 1)])
def test_same_bits(portable_on_one_thread, isa, threads):
    assert digest(isa, threads) == portable_on_one_thread
