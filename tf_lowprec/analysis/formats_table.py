"""What a model's layers compute in, as a table: formats, bits, sizes."""

import dataclasses
import math

from tf_lowprec.analysis.gemms import PASSES
from tf_lowprec.analysis.tables import Table
from tf_lowprec.analysis.trace import layer_paths
from tf_lowprec.convert import REPLACEMENTS
from tf_lowprec.layers.precision_layer import PrecisionLayer
from tf_lowprec.precision import Policy


@dataclasses.dataclass(frozen=True)
class LayerFormats:
    """A layer with weights, or one that multiplies.

    Attributes:
        layer: its path.
        kind: its class.
        policy: its Policy; None for a layer of Keras's own that stays in float32.
        parameters: number of its own weights.
        bits: of a weight or bias as it is stored, 32 without a format.
    """

    layer: str
    kind: str
    policy: object
    parameters: int
    bits: int

    @property
    def bytes(self):
        """Of its weights, packed."""
        return math.ceil(self.parameters * self.bits / 8)


def layer_formats(model):
    """A LayerFormats of each layer that has weights of its own, in the model's order."""
    rows, seen = [], set()
    for path, layer in reversed(layer_paths(model)):  # inner layers first: their weights are theirs
        own = [w for w in layer.weights if id(w) not in seen]
        seen.update(id(w) for w in own)
        policy = layer.precision if isinstance(layer, PrecisionLayer) else None
        if not own and policy is None:
            continue
        bits = 32 if policy is None or policy.weights is None else policy.weights.bits
        count = sum(math.prod(w.shape) for w in own)
        rows.append(LayerFormats(path, type(layer).__name__, policy, count, bits))
    return rows[::-1]


def formats_table(model):
    """A rich.table.Table of `layer_formats`."""
    rows = layer_formats(model)
    low = [row for row in rows if row.policy is not None and not row.policy.is_native]
    stored, single = sum(r.bytes for r in rows), sum(4 * r.parameters for r in rows)
    table = Table(
        title=f"{model.name}: {len(low)} of {len(rows)} layers in low precision",
        caption=f"{sum(r.parameters for r in rows):,} weights, {_size(stored)} packed, "
        f"{_size(single)} in float32",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold", min_width=10)
    table.add_column("class")
    for which in PASSES:
        table.add_column(which, overflow="fold")
    for title in ("weights", "bits", "size"):
        table.add_column(title, justify="right")
    stock = {cls.__name__ for cls in REPLACEMENTS}
    for row in rows:
        table.add_row(row.layer, row.kind, *_passes(row, stock), *_storage(row))
    return table


def _passes(row, stock):
    if row.policy is None:
        return ("float32", "", "") if row.kind in stock else ("", "", "")
    policy: Policy = row.policy
    if policy.is_native:
        return "float32", "float32", "float32"
    return tuple(describe(g) for g in (policy.forward, policy.backward, policy.gradient))


def _storage(row):
    return f"{row.parameters:,}", str(row.bits), _size(row.bytes)


def _size(count):
    for unit, step in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"


def describe(gemm):
    """A Gemm in a few characters: operands, accumulator / chunk, output."""
    if gemm.is_native:
        return "float32"
    lhs, rhs = (_short(f) for f in (gemm.lhs, gemm.rhs))
    operands = lhs if lhs == rhs else f"{lhs} x {rhs}"
    accumulator = gemm.accumulator
    total = accumulator.kind
    if accumulator.format is not None:
        total = _short(accumulator.format)
        total += f"/{accumulator.chunk}" if accumulator.chunk else ""
    text = f"{operands}, sum {total}"
    return text if gemm.output is None else f"{text}, to {_short(gemm.output)}"


def _short(format):
    return "float32" if format is None else str(format).split(" ")[0]
