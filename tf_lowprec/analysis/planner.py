"""analysis.plan: from a Keras model to a Plan."""

import dataclasses
import math

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.accumulator import Accumulator
from tf_lowprec.analysis.gemms import BACKWARD, FORWARD, GRADIENT, PASSES
from tf_lowprec.analysis.minimum import minimum_mantissa
from tf_lowprec.analysis.noise import best_chunk, check_noise
from tf_lowprec.analysis.plan import Plan, PlannedSum
from tf_lowprec.analysis.promotion import promotion_plan
from tf_lowprec.analysis.trace import trace
from tf_lowprec.analysis.vrr import CUTOFF, check_batch_size, check_chunk, check_cutoff

#: Operands and accumulators of the last layer: 16 bits, as in Sakr et al. (2019).
LAST_LAYER = formats.FloatFormat(6, 9)

_RULES = {"vrr": "formula", "noise": "noise"}


def plan(
    model,
    batch_size=None,
    operand=formats.FP8_E5M2,
    chunk=64,
    data=None,
    *,
    rule="vrr",
    cutoff=CUTOFF,
    noise_to_signal=1e-2,
    rounding="nearest_even",
    accumulator_exponent_bits=6,
    last_layer=LAST_LAYER,
    loss=None,
    loss_scale=1000.0,
    input_shape=None,
    accumulator=None,
    relative_loss=None,
):
    """Accumulator widths for every sum of a model's training step.

    The model is traced once, so that any built Keras model will do: Sequential, functional, nested
    or subclassed. Lengths of sums per layer class: see gemms.py and docs/vrr.md. Layers without a
    trainable weight before them have no BWD, frozen ones no GRAD. A layer called several times
    gets what its longest sums need, and no sum fewer bits than its operands. Layers that multiply
    in a way not known are listed in `Plan.unknown`, never left out.

    Args:
        model: a built tf.keras.Model.
        batch_size: examples in a batch; GRAD's sums grow with it. Default: that of the model's
            inputs, if they have one.
        operand: FloatFormat, or MXFormat, of activations, weights and errors in the products,
            whose m_p is 2 m + 1.
        chunk: terms in a chunk; None for one sequential sum; "best" for ceil(sqrt(n)) of each
            pass of a layer, with the n of its longest sums there.
        data: a batch to measure with, ``(x, y)`` or a tf.data.Dataset of such batches: ratios of
            products that are not zero (NZR), which shorten the sums, and on the model's own sums
            the retained variance and the error of the planned accumulators. Dense, convolution and
            einsum layers are measured; sums of others count as dense.
        rule: "vrr": v(n) < cutoff (Sakr et al., 2019); "noise": `rounding_noise` is at most
            `noise_to_signal`.
        rounding: of partial sums. The VRR knows no rounding mode.
        accumulator_exponent_bits: the paper's is 6.
        last_layer: format of the operands and of the accumulators of the last layers, those whose
            results no other planned layer uses. Default: (1,6,9), the paper's 16 bits. None: they
            are planned like the others.
        loss: Keras loss or (y_true, y_pred) -> scalar, for `data`. Default: the compiled one.
        loss_scale: by which errors are multiplied before they are rounded to `operand`.
        input_shape: one example's, where the model's inputs leave it open.
        accumulator: an aligned Accumulator, such as Accumulator.hopper(), whose widths are given:
            the plan then says after how many terms each sum has to be promoted to float32, if at
            all, for its noise to be at most `noise_to_signal`. chunk, data, rule, rounding,
            cutoff and last_layer do not apply.
        relative_loss: with `accumulator`, also the loss that a sum of terms of one sign may have.

    Returns:
        A Plan; a PromotionPlan with `accumulator`.

    Raises:
        ValueError: a model that is not built, has no product, or whose batch size or shapes are
            unknown; data that does not fit; an argument out of range.
    """
    if accumulator is not None:
        _check_promotion(accumulator, operand, data)
    elif relative_loss is not None:
        raise ValueError("relative_loss is for an aligned accumulator: give accumulator too")
    rules = Rules(
        operand,
        chunk,
        rule,
        cutoff,
        noise_to_signal,
        rounding,
        accumulator_exponent_bits,
        last_layer,
    )
    if not isinstance(model, tf.keras.Model):
        raise ValueError(f"model = {model!r} must be a tf.keras.Model")
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is not built: give it a tf.keras.Input, or call it on a batch"
        )
    batch = None
    if data is not None:
        from tf_lowprec.analysis.batch import Batch

        batch = Batch(model, data, batch_size, loss, loss_scale)
    specs = _specs(model, batch_size, input_shape) if batch is None else batch.specs
    found = trace(model, specs)
    if accumulator is not None:
        return promotion_plan(
            model.name,
            _batch_size(specs),
            _lengths(found),
            accumulator,
            operand,
            noise_to_signal,
            relative_loss,
        )
    ratios = {} if batch is None else batch.nonzero_ratios(found.calls, operand)
    lengths, macs = _lengths(found), _macs(found)
    result = rules.plan(model.name, _batch_size(specs), lengths, found.unknown, ratios, macs)
    return result if batch is None else batch.measure(result, found.calls)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a plan goes by; the fields are arguments of `plan`, which says what they mean."""

    operand: formats.FloatFormat = formats.FP8_E5M2
    chunk: object = 64
    rule: str = "vrr"
    cutoff: float = CUTOFF
    noise_to_signal: float = 1e-2
    rounding: formats.Rounding = formats.Rounding.NEAREST_EVEN
    accumulator_exponent_bits: int = 6
    last_layer: object = LAST_LAYER

    def __post_init__(self):
        _check(self.operand, self.last_layer, self.rule, self.chunk)
        object.__setattr__(self, "rounding", formats.Rounding.of(self.rounding))
        bits = formats.FloatFormat(self.accumulator_exponent_bits, 0).exponent_bits
        object.__setattr__(self, "accumulator_exponent_bits", int(bits))
        # As plain numbers, which JSON knows.
        object.__setattr__(self, "cutoff", check_cutoff(self.cutoff))
        object.__setattr__(self, "noise_to_signal", check_noise(self.noise_to_signal))
        if self.chunk != "best":
            object.__setattr__(self, "chunk", check_chunk(self.chunk))

    def plan(self, name, batch_size, lengths, unknown=(), ratios=None, macs=None):
        """The Plan of sums of given lengths.

        Args:
            name: the model's.
            batch_size: the lengths' batch.
            lengths: {(layer path, class, product, pass): (n, whether of a last layer)}.
            unknown: see Plan.
            ratios: {(layer path, product, pass): ratio of products that are not zero}.
            macs: {(layer path, product): multiply-accumulates of a pass}.
        """
        if not lengths:
            listed = "".join(f"; {path} {kind}: {reason}" for path, kind, reason in unknown)
            raise ValueError(f"model {name!r} has no matrix product to plan{listed}")
        ratios = ratios or {}
        sums = []
        # A layer has one accumulator in a pass, for all of its products.
        longest = {}
        for (layer, _, _, which), (n, _) in lengths.items():
            longest[layer, which] = max(n, longest.get((layer, which), 0))
        for (layer, kind, product, which), (n, is_last) in lengths.items():
            nzr = min(1.0, max(ratios.get((layer, product, which), 1.0), 1 / n))
            chunk = best_chunk(longest[layer, which]) if self.chunk == "best" else self.chunk
            planned = self._sum(layer, kind, product, which, n, nzr, chunk, is_last)
            work = (macs or {}).get((layer, product))
            sums.append(dataclasses.replace(planned, macs=work))
        return Plan(
            model=name,
            batch_size=batch_size,
            sums=sums,
            unknown=unknown,
            rule=self.rule,
            threshold=self.cutoff if self.rule == "vrr" else self.noise_to_signal,
            chunk=self.chunk,
            rounding=self.rounding,
            exponent_bits=self.accumulator_exponent_bits,
        )

    def _sum(self, layer, kind, product, which, n, nzr, chunk, is_last):
        is_given = is_last and self.last_layer is not None
        operand = self.last_layer if is_given else self.operand
        normal = self._width(operand, n, None, nzr)
        chunked = None if chunk is None else self._width(operand, n, chunk, nzr)
        used = operand.mantissa_bits if is_given else normal if chunk is None else chunked
        if used is None:
            fixes = ["a weaker rule", *(f"chunk={c!r}" for c in (64, "best") if c != self.chunk)]
            raise ValueError(
                f"{layer}: no accumulator of up to 23 mantissa bits suits {which}'s sums of {n:,} "
                f"terms with chunk = {self.chunk!r}; use {' or '.join(fixes)}"
            )
        return PlannedSum(
            layer, kind, product, which, n, nzr, normal, chunked, chunk, used, operand, is_given
        )

    def _width(self, operand, n, chunk, nzr):
        """Mantissa bits by the rule; None beyond 23."""
        try:
            bits = minimum_mantissa(
                2 * operand.mantissa_bits + 1,
                n,
                chunk,
                nzr,
                self.cutoff,
                method=_RULES[self.rule],
                rounding=self.rounding,
                noise_to_signal=self.noise_to_signal,
            )
        except ValueError:
            return None
        # Of sums so short that even full swamping passes the cut-off, no more is asked.
        return max(bits, operand.mantissa_bits)


def _check_promotion(accumulator, operand, data):
    if not isinstance(accumulator, Accumulator) or accumulator.kind != "aligned":
        raise ValueError(
            f"accumulator = {accumulator!r} must be an aligned tf_lowprec.Accumulator, such as "
            "Accumulator.hopper(), or None to plan widths"
        )
    if not isinstance(operand, formats.FloatFormat):
        raise ValueError(
            f"operand = {operand!r} must be a FloatFormat under {accumulator.kind} sums"
        )
    if data is not None:
        raise ValueError("data: a promotion plan measures nothing; leave it out")


def _check(operand, last_layer, rule, chunk):
    if not isinstance(operand, (formats.FloatFormat, formats.MXFormat)):
        raise ValueError(f"operand = {operand!r} must be a tf_lowprec.FloatFormat, as FP8_E5M2")
    if last_layer is not None and not isinstance(last_layer, formats.FloatFormat):
        raise ValueError(
            f"last_layer = {last_layer!r} must be a tf_lowprec.FloatFormat, such as "
            "FloatFormat(6, 9), or None"
        )
    if rule not in _RULES:
        raise ValueError(f"rule = {rule!r} must be 'vrr' or 'noise'")
    if isinstance(chunk, str) and chunk != "best":
        raise ValueError(f"chunk = {chunk!r} must be a positive integer, None or 'best'")


def _lengths(found):
    """{(layer path, class, product, pass): (longest n, whether of a last layer)}, in order."""
    longest, kinds = {}, {}
    for call, needs_backward, is_last in zip(found.calls, found.needs_backward, found.is_last):
        # A layer that is called several times goes by its first path and stays together.
        kinds[call.path] = type(call.layer).__name__
        for product in call.products:
            passes = [FORWARD]
            trains = bool(call.layer.trainable_weights)
            if needs_backward or (product.is_inner and trains):
                passes.append(BACKWARD)
            if trains or (not product.has_weights and BACKWARD in passes):
                passes.append(GRADIENT)
            for which in passes:
                key = (call.path, kinds[call.path], product.name, which)
                n, last = longest.get(key, (0, False))
                longest[key] = (max(n, product.length(which)), last or is_last)
    order = {path: i for i, path in enumerate(dict.fromkeys(key[0] for key in longest))}
    products = {key[:3]: i for i, key in enumerate(longest)}
    return dict(
        sorted(
            longest.items(),
            key=lambda item: (order[item[0][0]], products[item[0][:3]], PASSES.index(item[0][3])),
        )
    )


def _macs(found):
    """{(layer path, product): multiply-accumulates of a pass}, all calls of the layer together."""
    macs = {}
    for call in found.calls:
        for product in call.products:
            key = call.path, product.name
            macs[key] = macs.get(key, 0) + product.macs
    return macs


def _specs(model, batch_size, input_shape):
    """Structure of tf.TensorSpec of the model's inputs, all sizes known."""
    if batch_size is not None:
        batch_size = check_batch_size(batch_size)
    if input_shape is not None:
        if not isinstance(input_shape, (tuple, list, tf.TensorShape)):
            raise ValueError(
                f"input_shape = {input_shape!r} must be one example's, such as (32, 32, 3)"
            )
        _need(batch_size, model)
        dtypes = {t.dtype for t in getattr(model, "inputs", None) or []}
        dtype = dtypes.pop() if len(dtypes) == 1 else tf.float32
        return tf.TensorSpec((batch_size, *input_shape), dtype)
    inputs = _inputs(model)

    def spec(tensor):
        shape = [batch_size, *tensor.shape[1:]] if batch_size is not None else list(tensor.shape)
        _need(shape[0], model)
        if None in shape:
            raise ValueError(
                f"model {model.name!r} has an input of shape {tuple(tensor.shape)}: give "
                "input_shape, one example's, such as input_shape=(time, features)"
            )
        return tf.TensorSpec(shape, tensor.dtype)

    return tf.nest.map_structure(spec, inputs)


def _need(batch_size, model):
    if batch_size is None:
        raise ValueError(
            f"batch_size is unknown for model {model.name!r}: give it, such as batch_size=128; the "
            "sums of GRAD grow with it"
        )


def _inputs(model):
    """Structure of objects with the shapes and dtypes of a model's inputs."""
    inputs = getattr(model, "inputs", None)
    if inputs:
        # A Sequential model that was never called has inputs and no input.
        return model.input if len(inputs) > 1 else inputs[0]
    config = model.get_build_config() if hasattr(model, "get_build_config") else None
    shape = (config or {}).get("input_shape")
    if not isinstance(shape, (tuple, list)) or any(isinstance(s, (tuple, list)) for s in shape):
        raise ValueError(
            f"the input shape of model {model.name!r} is unknown: give input_shape, one example's, "
            "or data"
        )
    return tf.TensorSpec(shape, tf.float32)


def _batch_size(specs):
    sizes = {s.shape[0] for s in tf.nest.flatten(specs)}
    return math.prod(sizes) if len(sizes) == 1 else max(sizes)
