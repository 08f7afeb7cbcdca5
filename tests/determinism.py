"""Digests of an op's bits in processes with an instruction set and a number of threads each."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

import tf_lowprec

PACKAGE = pathlib.Path(tf_lowprec.__file__).resolve().parents[1]
TESTS = pathlib.Path(__file__).parent
NEEDS = {"portable": set(), "avx2": {"avx2", "fma"}}
NEEDS["avx512"] = NEEDS["avx2"] | {"avx512f", "avx512dq", "avx512bw", "avx512vl"}


def cpu_flags():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def digest(script, isa, threads):
    """What `python tests/ops/SCRIPT THREADS` prints, which begins with "digest "."""
    if not NEEDS[isa] <= cpu_flags():
        pytest.skip(f"{platform.machine()} CPU without {isa}")
    paths = os.pathsep.join([str(PACKAGE), str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TF_LOWPREC_ISA": isa, "PYTHONPATH": paths}
    command = [sys.executable, str(TESTS / "ops" / script), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("digest ")]
    return line
