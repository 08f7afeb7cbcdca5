"""Switching activity of a synthesized module: simulates its gates and counts what changes.

Many copies of the module run side by side, a bit of a Python integer each. Gates switch once a
cycle at most: glitches are not seen. Wires are not either.
"""

import dataclasses
import json

# Functions of the cells of cells.lib, of integers whose bits are copies; `ones` has all bits set.
_GATES = {
    "INV": "{A} ^ ones",
    "BUF": "{A}",
    "NAND2": "({A} & {B}) ^ ones",
    "NOR2": "({A} | {B}) ^ ones",
    "NAND3": "({A} & {B} & {C}) ^ ones",
    "NOR3": "({A} | {B} | {C}) ^ ones",
    "AND2": "{A} & {B}",
    "OR2": "{A} | {B}",
    "XOR2": "{A} ^ {B}",
    "XNOR2": "{A} ^ {B} ^ ones",
    "AOI21": "({A} & {B} | {C}) ^ ones",
    "OAI21": "(({A} | {B}) & {C}) ^ ones",
    "AOI22": "({A} & {B} | {C} & {D}) ^ ones",
    "OAI22": "(({A} | {B}) & ({C} | {D})) ^ ones",
    "MUX2": "{S} & {B} | ({S} ^ ones) & {A}",
}


@dataclasses.dataclass(frozen=True)
class Activity:
    """What switched: `toggles` of the outputs by cell type, over `cycles` of `copies` copies."""

    toggles: dict
    cycles: int
    copies: int


class Netlist:
    """A module as Yosys's write_json has it, in the cells of cells.lib."""

    def __init__(self, path, top):
        module = json.loads(path.read_text())["modules"][top]
        self.ports = {name: port["bits"] for name, port in module["ports"].items()}
        self.inputs = [n for n, p in module["ports"].items() if p["direction"] == "input"]
        cells = module["cells"].values()
        self.flip_flops = [c["connections"] for c in cells if c["type"] == "DFF"]
        gates = [(c["type"], c["connections"]) for c in cells if c["type"] != "DFF"]
        known = {bit for name in self.inputs for bit in self.ports[name]}
        known |= {flip_flop["Q"][0] for flip_flop in self.flip_flops} | {"0", "1", "x"}
        self.gates = _ordered(gates, known)

    def run(self, stimulus, copies):
        """Activity under `stimulus`: for each cycle {input: [integer of copies for each bit]}.

        Inputs that are left out (clk) are 0. Also returns each cycle's outputs, before the clock's
        edge: {output: [integer for each bit]}.
        """
        ones = (1 << copies) - 1
        names = {"0": "0", "1": "ones", "x": "0"}

        def name(bit):
            return names.get(bit, f"n{bit}")

        lines = ["def cycle(values, states, ones):"]
        for port in self.inputs:
            for i, bit in enumerate(self.ports[port]):
                lines.append(f"    n{bit} = values[{port!r}][{i}] if {port!r} in values else 0")
        for i, flip_flop in enumerate(self.flip_flops):
            lines.append(f"    {name(flip_flop['Q'][0])} = states[{i}]")
        for kind, pins in self.gates:
            operands = {pin: name(bits[0]) for pin, bits in pins.items() if pin != "Y"}
            lines.append(f"    {name(pins['Y'][0])} = {_GATES[kind].format(**operands)}")
        outputs = [port for port in self.ports if port not in self.inputs]
        ports = ", ".join(
            f"{port!r}: [{', '.join(map(name, self.ports[port]))}]" for port in outputs
        )
        lines.append(f"    nets = ({''.join(name(p['Y'][0]) + ',' for _, p in self.gates)})")
        lines.append(f"    following = [{', '.join(name(f['D'][0]) for f in self.flip_flops)}]")
        lines.append(f"    return nets, following, {{{ports}}}")
        scope = {}
        exec("\n".join(lines), scope)  # our own text, from a netlist of our own

        states, before = [0] * len(self.flip_flops), None
        changes, seen = [0] * len(self.gates), []
        state_changes = 0
        for values in stimulus:
            nets, following, out = scope["cycle"](values, states, ones)
            if before is not None:
                for i, (old, new) in enumerate(zip(before, nets)):
                    changes[i] += (old ^ new).bit_count()
                state_changes += sum((x ^ y).bit_count() for x, y in zip(states, following))
            before, states = nets, following
            seen.append(out)
        toggles = {"DFF": state_changes}
        for (kind, _), count in zip(self.gates, changes):
            toggles[kind] = toggles.get(kind, 0) + count
        return Activity(toggles, len(seen) - 1, copies), seen


def _ordered(gates, known):
    """The gates so that each comes after those that it depends on."""
    waiting, ordered = {}, []
    ready = []

    def missing(pins):
        return {b[0] for pin, b in pins.items() if pin != "Y" and b[0] not in known}

    counts = {}
    for i, (_, pins) in enumerate(gates):
        needs = missing(pins)
        counts[i] = len(needs)
        for bit in needs:
            waiting.setdefault(bit, []).append(i)
        if not needs:
            ready.append(i)
    while ready:
        i = ready.pop()
        ordered.append(gates[i])
        for j in waiting.pop(gates[i][1]["Y"][0], ()):
            counts[j] -= 1
            if counts[j] == 0:
                ready.append(j)
    if len(ordered) != len(gates):
        raise ValueError("the netlist has a loop of gates")
    return ordered
