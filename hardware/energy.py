"""Energy of a multiply-accumulate for each accumulator width, from gates that switch in simulation.

    PYTHONPATH=. .venv/bin/python hardware/energy.py     # after hardware/area.py

Units of hardware/area.json add up products of normal FP8 (1,5,2) numbers, in chunks of 64, at one
operand pair per cycle. A gate's output that changes costs energy in proportion to the gate's area;
a flip-flop's clock costs as much as one change of a NAND2, each cycle. The scale is that of a
published figure: a 32-bit integer addition, of uniform operands, takes 0.1 pJ in 45 nm at 0.9 V
(Horowitz, "Computing's energy problem", ISSCC 2014), and the same 32-bit adder, synthesized
likewise, is simulated beside. No glitches, no wires, no leakage, no memories. Writes
hardware/energy.json.
"""

import json
import pathlib

import numpy as np

from hardware.area import COMPARED, FLOAT32, LEAST
from hardware.codes import ROUNDINGS
from hardware.synth import yosys
from hardware.synth.toggles import Netlist

COPIES, CHUNK, CHUNKS = 256, 64, 3
ADDITION_PJ = 0.1
ENERGY = pathlib.Path(__file__).with_suffix(".json")


def changes(activity, areas):
    """NAND2-equivalents switched per cycle and copy, the clock left out."""
    total = sum(areas[kind] / yosys.NAND2 * count for kind, count in activity.toggles.items())
    return total / (activity.cycles * activity.copies)


def bits(values, width):
    """[integer for each bit] of an array with a value for each copy."""
    planes = (np.asarray(values)[None] >> np.arange(width)[:, None]) & 1
    packed = np.packbits(planes.astype(np.uint8), axis=1, bitorder="little")
    return [int.from_bytes(plane.tobytes(), "little") for plane in packed]


def fp8(rng, size):
    """Codes of (1,5,2) numbers: normal deviates, rounded to nearest even."""
    x = rng.normal(size=size)
    exponent = np.maximum(np.frexp(x)[1] - 1, -14)
    steps = np.rint(np.abs(x) / 2.0 ** (exponent - 2)).astype(int)  # up to 8, a carry included
    return (np.signbit(x) << 7) | ((exponent + 15 << 2) + steps - 4)


def stimulus(rng, chunked):
    """Cycles of lp_float_mac: reset, then chunks, each followed by the cycle that adds it up.

    Without chunks, sums of as many terms follow each other.
    """
    ones = (1 << COPIES) - 1
    yield {"rst": [ones]}
    held = {}
    for _ in range(CHUNKS):
        for k in range(CHUNK):
            held = {
                "in_valid": [ones],
                "in_a": bits(fp8(rng, COPIES), 8),
                "in_b": bits(fp8(rng, COPIES), 8),
                "in_chunk_last" if chunked else "in_last": [ones * (k == CHUNK - 1)],
                "random": bits(rng.integers(0, 2**16, COPIES), 16),
            }
            yield held
        if chunked:
            yield {**held, "random": bits(rng.integers(0, 2**16, COPIES), 16)}


def main():
    areas = yosys.cell_areas()
    rng = np.random.default_rng(0)
    adder = yosys.to_gates("lp_adder", W=32)
    words = [{name: bits(rng.integers(0, 2**32, COPIES), 32) for name in "ab"} for _ in range(100)]
    activity, outputs = Netlist(adder.netlist, "lp_adder").run(words, COPIES)
    for word, out in zip(words, outputs):
        check = [sum((word[n][i] & 1) << i for i in range(32)) for n in "ab"]
        assert sum((bit & 1) << i for i, bit in enumerate(out["sum"])) == sum(check) % 2**32
    unit_pj = ADDITION_PJ / changes(activity, areas)

    lfsr = yosys.to_gates("lp_lfsr", WORD=16)
    ones = (1 << COPIES) - 1
    turns = [{"load": [ones], "seed": bits(rng.integers(1, 2**33, COPIES), 33)}]
    turns += [{"advance": [ones]}] * 200
    activity, _ = Netlist(lfsr.netlist, "lp_lfsr").run(turns, COPIES)
    lfsr_pj = (changes(activity, areas) + lfsr.cells["DFF"]) * unit_pj
    report = {"pj_per_nand2_change": unit_pj, "pj_lfsr": round(lfsr_pj, 4), "rows": []}
    wanted = [(*FLOAT32, r, chunked) for r in COMPARED for chunked in (False, True)]
    wanted += [(6, m, r, True) for r in COMPARED for m in range(LEAST, 24)]
    words = {c: list(stimulus(np.random.default_rng(1), c)) for c in (False, True)}
    for exponent_bits, m, rounding, chunked in wanted:
        gates = yosys.to_gates(
            "lp_float_mac",
            ACC_E=exponent_bits,
            ACC_M=m,
            ROUNDING=ROUNDINGS[rounding],
            CHUNKED=int(chunked),
        )
        activity, _ = Netlist(gates.netlist, "lp_float_mac").run(words[chunked], COPIES)
        switched = changes(activity, areas) + gates.cells.get("DFF", 0)
        cycles = (CHUNK + 1) / CHUNK if chunked else 1
        row = {
            "exponent_bits": exponent_bits,
            "mantissa_bits": m,
            "rounding": rounding,
            "chunked": chunked,
            "pj_per_mac": round(switched * unit_pj * cycles, 4),
        }
        report["rows"].append(row)
        print(*row.values(), flush=True)
        rows = ",\n".join("  " + json.dumps(r) for r in report["rows"])
        head = json.dumps({**report, "rows": []}, indent=1)
        ENERGY.write_text(head.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n")


if __name__ == "__main__":
    main()
