"""analysis.observe: what the formats of a model's layers do to a real batch."""

import dataclasses

import numpy as np
import tensorflow as tf

from tf_lowprec.analysis.gemms import PASSES
from tf_lowprec.analysis.sampled_sums import draw, matrices, retention, swamped
from tf_lowprec.analysis.tables import Table, plain_text
from tf_lowprec.analysis.vrr import check_count, check_seed
from tf_lowprec.formats import Rounding
from tf_lowprec.ops.quantize import quantize
from tf_lowprec.ops.scaling import exponent_for, scale, target_exponent


@dataclasses.dataclass(frozen=True)
class Observation:
    """One pass of one layer. Ratios are in 0..1, and None where there is no format to ask.

    Attributes:
        layer: path of the layer.
        which: "FWD", "BWD" or "GRAD".
        n: terms of its sums.
        saturated: of the operands' values, those beyond their format's range.
        underflow: of the operands' values that are not zero, those that become zero.
        output_saturated, output_underflow: the same of the sums and the format they are rounded to.
        swamped: of the terms that are not zero, those that leave their partial sum as it was.
        vrr: variance of the layer's narrow sums over that of its exact ones.
        noise: variance of the sums' errors over that of the exact sums.
    """

    layer: str
    which: str
    n: int
    saturated: object = None
    underflow: object = None
    output_saturated: object = None
    output_underflow: object = None
    swamped: object = None
    vrr: object = None
    noise: object = None

    def scalars(self):
        """{name: value} of what was observed."""
        values = dataclasses.asdict(self)
        names = [name for name in values if name not in ("layer", "which", "n")]
        return {name: values[name] for name in names if values[name] is not None}


@dataclasses.dataclass(frozen=True)
class Observations:
    """What `observe` saw.

    Attributes:
        rows: tuple of Observation, layers in the model's order.
        unknown: (path, class name) of low-precision layers that are not observed.
    """

    rows: tuple
    unknown: tuple = ()

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)

    def table(self):
        """A rich.table.Table: saturated, underflow and swamped in %, VRR and noise."""

        rest = "\n".join(f"not observed: {path} ({kind})" for path, kind in self.unknown)
        table = Table(
            title="per layer and pass, % of values", caption=rest or None, caption_justify="left"
        )
        table.add_column("layer", overflow="fold", min_width=10)
        table.add_column("pass")
        for title in ("n", "saturated", "underflow", "out sat.", "out underfl.", "swamped"):
            table.add_column(title, justify="right")
        table.add_column("VRR", justify="right")
        table.add_column("noise", justify="right")

        def percent(ratio):
            return "" if ratio is None else f"{100 * ratio:.3g}"

        for o in self.rows:
            ratios = (o.saturated, o.underflow, o.output_saturated, o.output_underflow, o.swamped)
            vrr = "" if o.vrr is None else f"{o.vrr:.4f}"
            noise = "" if o.noise is None else f"{o.noise:.1e}"
            table.add_row(o.layer, o.which, f"{o.n:,}", *map(percent, ratios), vrr, noise)
        return table

    def __str__(self):
        return plain_text(self.table())


def observe(model, data, batch_size=None, *, loss=None, loss_scale=None, samples=256, seed=0):
    """Counts on a real batch what saturates, underflows and is swamped, per layer and pass.

    Runs the model forward and back once, then looks at the operands of each low-precision layer:
    all values against their formats, and `samples` sums, drawn at random, term by term. Dense,
    Conv1D (not causal), Conv2D and DepthwiseConv2D are observed, grouped ones by their first group;
    other layers are listed in `Observations.unknown`.

    Args:
        model: a built Keras model; it is the same afterwards.
        data: ``(x, y)``, or a tf.data.Dataset of such batches, whose first is taken.
        batch_size: examples to take. Default: all of `data`'s, or of its first batch.
        loss: Keras loss or (y_true, y_pred) -> scalar. Default: the compiled one.
        loss_scale: by which errors are multiplied. Default: the compiled optimizer's scale.
        samples: sums drawn for `swamped`, `vrr`, `noise` and the output's ratios.
        seed: integer; of what is drawn.

    Returns:
        Observations.

    Raises:
        ValueError: an argument out of range, data that does not fit the model, or no loss.
    """
    return Observer(model, data, batch_size, loss, loss_scale, samples).observe(seed)


class Observer:
    """`observe`, again and again: the model is traced once."""

    def __init__(self, model, data, batch_size=None, loss=None, loss_scale=None, samples=256):
        from tf_lowprec.analysis.batch import Batch, check_loss_scale
        from tf_lowprec.analysis.trace import trace

        self.model, self.samples = model, check_count(samples, "samples")
        self._loss_scale = None if loss_scale is None else check_loss_scale(loss_scale)
        self._batch = Batch(model, data, batch_size, loss, 1.0)
        calls = trace(model, self._batch.specs).calls
        ours = [c for c in calls if not getattr(c.layer, "precision", _NATIVE).is_native]
        self._calls = ours

    def observe(self, seed=0):
        """Observations of the model as it is now."""
        seed = check_seed(seed)
        scale_now = self._loss_scale
        if scale_now is None:
            scale_now = _loss_scale_of(getattr(self.model, "optimizer", None))
        self._batch.loss_scale = float(scale_now)
        rows, unknown = [], []
        for path, record in self._batch.record(self._calls).items():
            found = _observe_layer(path, record, self.samples, seed)
            rows += found
            if not found:
                unknown.append((path, type(record.layer).__name__))
        seen = {row.layer for row in rows} | {path for path, _ in unknown}
        rest = {c.path: type(c.layer).__name__ for c in self._calls if c.path not in seen}
        return Observations(tuple(rows), (*unknown, *rest.items()))


class _Native:
    is_native = True


_NATIVE = _Native()


def _loss_scale_of(optimizer):
    """The scale that an optimizer, or one inside it, multiplies losses by."""
    for _ in range(4):
        if optimizer is None:
            break
        for name in ("dynamic_scale", "loss_scale", "loss_scale_factor"):
            value = getattr(optimizer, name, None)
            value = value() if callable(value) else value
            if value is not None:
                return float(value)
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return 1.0


def _observe_layer(path, record, samples, seed):
    trained = record.layer.precision
    accumulators = [g.accumulator for g in (trained.forward, trained.backward, trained.gradient)]
    # Operands are rounded to nearest where training rounds them at random; sums as in training.
    policy = trained.for_inference()
    kernel = tf.cast(tf.convert_to_tensor(record.layer.weights[0]), tf.float32)
    gemms = dict(zip(PASSES, (policy.forward, policy.backward, policy.gradient)))
    dy = _round(record.dy, policy.errors, policy.rounding)
    # BWD and GRAD start from the operands as FWD rounded them.
    forward = policy.forward
    x = _seen(record.x, forward, forward.lhs)[0]
    w = _seen(kernel, forward, forward.rhs)[0]
    tensors = {
        "FWD": (record.x, kernel, None),
        "BWD": (None, w, dy),
        "GRAD": (x, None, dy),
    }
    rows = []
    for which, accumulator in zip(PASSES, accumulators):
        gemm = gemms[which]
        xs, ks, es = tensors[which]
        lhs, rhs = (xs if es is None or which == "GRAD" else es), (es if which == "GRAD" else ks)
        (lhs, *left), (rhs, *right) = _seen(lhs, gemm, gemm.lhs), _seen(rhs, gemm, gemm.rhs)
        rounded = {"FWD": (lhs, rhs, dy), "BWD": (x, rhs, lhs), "GRAD": (lhs, w, rhs)}[which]
        pair = matrices(record.layer, *rounded, which)
        if pair is None:
            return []
        saturated, underflow = (_pooled(counts) for counts in zip(left, right))
        terms = draw(*pair, samples, seed)
        observed = {"saturated": saturated, "underflow": underflow}
        if gemm.output is not None:
            sums = tf.reduce_sum(tf.cast(terms, tf.float64), 1)
            _, *counts = _counted(tf.cast(sums, tf.float32), gemm.output, gemm.rounding)
            observed["output_saturated"], observed["output_underflow"] = map(_ratio, counts)
        if accumulator.kind == "narrow":
            scaled = _scaled_terms(terms, gemm)
            observed["swamped"] = swamped(scaled, accumulator, seed)
            observed["vrr"], observed["noise"] = retention(scaled, accumulator, seed)
        rows.append(Observation(path, which, int(pair[0].shape[1]), **observed))
    return rows


def _round(x, format, rounding):
    return x if format is None else quantize(x, format, rounding)


def _seen(x, gemm, format):
    """(x as the product takes it, saturated, underflow), the last two as (count, of how many)."""
    if format is None:
        return x, None, None
    if gemm.scaling is None:
        return _counted(x, format, gemm.rounding)
    exponent = exponent_for(x, target_exponent(gemm, format))
    rounded, *counts = _counted(scale(x, exponent), format, gemm.rounding)
    return scale(rounded, -exponent), *counts


def _counted(x, format, rounding):
    rounding = Rounding.NEAREST_EVEN if rounding == Rounding.STOCHASTIC else rounding
    rounded = quantize(x, format, rounding)
    beyond = tf.math.count_nonzero((x > format.max) | (x < format.min))
    nonzero = tf.math.count_nonzero(x)
    lost = nonzero - tf.math.count_nonzero(rounded)
    return rounded, (int(beyond), int(tf.size(x))), (max(int(lost), 0), int(nonzero))


def _ratio(count):
    return count[0] / count[1] if count[1] else 0.0


def _pooled(counts):
    counts = [c for c in counts if c is not None]
    return _ratio(np.sum(counts, 0)) if counts else None


def _scaled_terms(terms, gemm):
    """The products as the accumulator adds them: under amax scaling near the top of its range."""
    if gemm.scaling is None:
        return terms
    target = target_exponent(gemm, gemm.lhs) + target_exponent(gemm, gemm.rhs)
    return scale(terms, exponent_for(terms, target))
