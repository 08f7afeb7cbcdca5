"""Which format where in the three GEMMs of a layer."""

import dataclasses

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.accumulator import Accumulator
from tf_lowprec.formats import Rounding
from tf_lowprec.gemm import Gemm


@tf.keras.utils.register_keras_serializable("tf_lowprec")
@dataclasses.dataclass(frozen=True)
class Policy:
    """The precision of a layer: its three GEMMs and what lies between them.

    A layer computes ``GEMM -> round -> + bias -> round -> activation -> round``. Its backward pass
    rounds the error once on entry, then takes the BWD and GRAD products of it.

    Args:
        forward: FWD: lhs = activations, rhs = weights.
        backward: BWD: lhs = errors, rhs = weights.
        gradient: GRAD: lhs = activations, rhs = errors.
        weights: format of the weights and biases that are stored: initial values are rounded to
            it, and `optimizers.LowPrecision` keeps them there. None: float32.
        activations: format after the bias and after the activation function. A softmax is left in
            float32.
        errors: format of the error that enters the backward pass.
        gradients: format of the bias' gradient.
        rounding: rounding of what is not in a GEMM: biases, activations, errors.
        inference_rounding: replaces stochastic rounding outside training.

    Raises:
        ValueError: an argument of the wrong kind; a stochastic inference_rounding.
    """

    forward: Gemm = Gemm()
    backward: Gemm = Gemm()
    gradient: Gemm = Gemm()
    weights: object = None
    activations: object = None
    errors: object = None
    gradients: object = None
    rounding: Rounding = Rounding.NEAREST_EVEN
    inference_rounding: Rounding = Rounding.NEAREST_EVEN

    def __post_init__(self):
        for name in ("forward", "backward", "gradient"):
            if not isinstance(getattr(self, name), Gemm):
                raise ValueError(f"{name} = {getattr(self, name)!r} must be a tf_lowprec.Gemm")
        for name in ("weights", "activations", "errors", "gradients"):
            formats.check_format(getattr(self, name), name, optional=True)
        for name in ("rounding", "inference_rounding"):
            object.__setattr__(self, name, Rounding.of(getattr(self, name), name))
        if self.inference_rounding == Rounding.STOCHASTIC:
            raise ValueError("inference_rounding = 'stochastic': inference must be deterministic")

    @classmethod
    def float32(cls):
        """Native everywhere: a layer equals its stock Keras parent exactly."""
        return cls()

    @classmethod
    def fixed_point(
        cls, format, rounding="stochastic", activations=None, errors=None, gradients=None
    ):
        """Everything in fixed point, as Gupta et al. (2015) train.

        Products are summed exactly and converted once. Weights, biases, activations,
        back-propagated errors and gradients all lie on a fixed-point grid.

        Args:
            format: FixedPointFormat of weights, biases, errors and gradients.
            rounding: "stochastic", "nearest_up" (the paper's nearest), or another.
            activations: FixedPointFormat of layer outputs; they often need more integer bits, e.g.
                <6,10> beside <2,14>. Default: `format`.
            errors, gradients: formats of the back-propagated errors and of the weights' gradients.
                Default: `format`.

        Raises:
            ValueError: a format that is no FixedPointFormat, or too wide for an exact sum; no
                rounding.
        """
        given = {"format": format, "activations": activations, "errors": errors}
        for name, value in {**given, "gradients": gradients}.items():
            if not isinstance(value, formats.FixedPointFormat) and (
                name == "format" or value is not None
            ):
                raise ValueError(f"{name} = {value!r} must be a tf_lowprec.FixedPointFormat")
        rounding = Rounding.of(rounding)
        activations, errors = activations or format, errors or format
        gradients = gradients or format
        wide = Accumulator.wide()
        deterministic = Rounding.NEAREST_EVEN if rounding == Rounding.STOCHASTIC else rounding
        return cls(
            forward=Gemm(activations, format, wide, activations, rounding),
            backward=Gemm(errors, format, wide, errors, rounding),
            gradient=Gemm(activations, errors, wide, gradients, rounding),
            weights=format,
            activations=activations,
            errors=errors,
            gradients=gradients,
            rounding=rounding,
            inference_rounding=deterministic,
        )

    @classmethod
    def fp8(
        cls,
        accumulator_mantissa_bits,
        accumulator_exponent_bits=6,
        chunk=64,
        accumulator_rounding="nearest_even",
        operand=formats.FP8_E5M2,
        rounding="nearest_even",
        scaling=None,
    ):
        """Eight-bit operands and narrow accumulators, as Sakr et al. (2019) train.

        Activations, weights and errors are rounded to `operand` on their way into each product,
        whose partial sums are rounded to (1, `accumulator_exponent_bits`,
        `accumulator_mantissa_bits`). Weights, biases and updates stay in float32. Scale the loss
        (optimizers.loss_scaling; the paper: by 1000), or the operands, or small errors are lost.

        Args:
            accumulator_mantissa_bits: an int, or one for each of (forward, backward, gradient).
            accumulator_exponent_bits: an int.
            chunk: of the sums, None for none; or one for each of (forward, backward, gradient).
            accumulator_rounding: of the partial sums.
            operand: FloatFormat of the operands; the paper's is (1, 5, 2).
            rounding: of the operands.
            scaling: "amax" scales each operand to its range: see Gemm. None does not.

        Raises:
            ValueError: an argument that is none of these.
        """

        if not isinstance(operand, formats.FloatFormat):
            raise ValueError(
                f"operand = {operand!r} must be a tf_lowprec.FloatFormat, such as FP8_E5M2; for "
                "fixed point see Policy.fixed_point"
            )

        def each(value, name):
            values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
            if len(values) != 3:
                raise ValueError(
                    f"{name} = {value!r} must be one value or three, one for each pass"
                )
            return values

        def accumulator_format(mantissa_bits):
            try:
                return formats.FloatFormat(accumulator_exponent_bits, mantissa_bits)
            except ValueError as error:  # which begins with the field's name
                raise ValueError(f"accumulator_{error}") from None

        mantissa_bits = each(accumulator_mantissa_bits, "accumulator_mantissa_bits")
        accumulator_rounding = Rounding.of(accumulator_rounding, "accumulator_rounding")
        gemms = [
            Gemm(
                operand,
                operand,
                Accumulator(accumulator_format(m), c, accumulator_rounding),
                rounding=rounding,
                scaling=scaling,
            )
            for m, c in zip(mantissa_bits, each(chunk, "chunk"))
        ]
        return cls(*gemms, rounding=rounding)

    @classmethod
    def _of_operands(cls, activations, weights, errors, accumulator, rounding, scaling=None):
        """Operands in given formats and one accumulator; everything else in float32."""
        gemms = [
            Gemm(lhs, rhs, accumulator, rounding=rounding, scaling=scaling)
            for lhs, rhs in ((activations, weights), (errors, weights), (activations, errors))
        ]
        return cls(*gemms, rounding=rounding)

    @classmethod
    def bf16(cls, accumulator=None, rounding="nearest_even"):
        """bfloat16 operands, float32 sums: mixed precision as most hardware trains it.

        Args:
            accumulator: default: TensorFlow's own float32 sums, whose last bits are not defined.
                ``Accumulator(FP32)`` rounds every partial sum to float32, in order;
                ``Accumulator.hopper(operand_bits=16)`` adds as an H100's tensor cores.
            rounding: of the operands.

        Raises:
            ValueError: an argument that is none of these.
        """
        accumulator = Accumulator.native() if accumulator is None else accumulator
        return cls._of_operands(*(formats.BF16,) * 3, accumulator, rounding)

    @classmethod
    def fp16(cls, accumulator=None, rounding="nearest_even", scaling=None):
        """float16 operands and float16 partial sums, each rounded once, in order. Scale the loss.

        Args:
            accumulator: default ``Accumulator(FP16)``; ``Accumulator(FP16, chunk=64)`` sums in
                chunks, ``Accumulator.native()`` in float32,
                ``Accumulator.hopper(operand_bits=16, into="float16")`` as an H100's tensor cores.
            rounding: of the operands.
            scaling: "amax" scales each operand to its range: see Gemm.

        Raises:
            ValueError: an argument that is none of these.
        """
        accumulator = Accumulator(formats.FP16) if accumulator is None else accumulator
        return cls._of_operands(*(formats.FP16,) * 3, accumulator, rounding, scaling)

    @classmethod
    def hopper(
        cls,
        promote=128,
        operand=formats.FP8_E4M3FN,
        errors=None,
        rounding="nearest_even",
        scaling="amax",
    ):
        """FP8 training on NVIDIA Hopper's tensor cores, with their accumulation.

        Args:
            promote: terms after which sums go on in float32: DeepSeek-V3 takes 128. None: never.
            operand: FloatFormat of activations, weights and, unless given, errors.
            errors: FloatFormat of the errors; FP8_E5M2 has more range.
            rounding: of the operands.
            scaling: "amax" scales each operand to its range: see Gemm. None does not.

        Raises:
            ValueError: an operand that is no FloatFormat, or `promote` no multiple of 32.
        """
        errors = operand if errors is None else errors
        for name, value in (("operand", operand), ("errors", errors)):
            if not isinstance(value, formats.FloatFormat):
                raise ValueError(
                    f"{name} = {value!r} must be a tf_lowprec.FloatFormat, such as FP8_E4M3FN"
                )
        accumulator = Accumulator.hopper(promote)
        return cls._of_operands(operand, operand, errors, accumulator, rounding, scaling)

    @classmethod
    def mx(
        cls,
        activations=formats.MXFP8_E4M3,
        weights=None,
        errors=None,
        accumulator=None,
        rounding="nearest_even",
    ):
        """Operands in OCP Microscaling block formats, blocks along the axis that is summed over.

        BWD and GRAD sum over other axes than FWD, and round the operands anew, from what they were
        before FWD rounded them.

        Args:
            activations, weights, errors: MXFormats (or other formats); weights and errors default
                to `activations`.
            accumulator: default: TensorFlow's own float32 sums.
            rounding: of the operands.

        Raises:
            ValueError: an argument that is none of these.
        """
        given = {"activations": activations, "weights": weights, "errors": errors}
        for name, value in given.items():
            formats.check_format(value, name, optional=True, blocks=True)
        weights = activations if weights is None else weights
        errors = activations if errors is None else errors
        accumulator = Accumulator.native() if accumulator is None else accumulator
        return cls._of_operands(activations, weights, errors, accumulator, rounding)

    @property
    def is_native(self):
        """Whether a layer under this policy is its stock Keras parent."""
        return all(g.is_native for g in (self.forward, self.backward, self.gradient)) and (
            self.weights,
            self.activations,
            self.errors,
            self.gradients,
        ) == (None, None, None, None)

    @property
    def is_stochastic(self):
        """Whether training under it draws random numbers."""
        return any(g.is_stochastic for g in (self.forward, self.backward, self.gradient)) or (
            self.rounding == Rounding.STOCHASTIC
            and (self.activations, self.errors, self.gradients) != (None, None, None)
        )

    def for_inference(self):
        """This policy with `inference_rounding` in place of stochastic rounding."""

        def settle(gemm):
            accumulator = gemm.accumulator
            if accumulator.rounding == Rounding.STOCHASTIC:
                accumulator = dataclasses.replace(accumulator, rounding=self.inference_rounding)
            rounding = gemm.rounding
            if rounding == Rounding.STOCHASTIC:
                rounding = self.inference_rounding
            return dataclasses.replace(gemm, accumulator=accumulator, rounding=rounding)

        rounding = self.rounding
        if rounding == Rounding.STOCHASTIC:
            rounding = self.inference_rounding
        return dataclasses.replace(
            self,
            forward=settle(self.forward),
            backward=settle(self.backward),
            gradient=settle(self.gradient),
            rounding=rounding,
        )

    def for_activations(self):
        """This policy for a product of two activations, as attention's are: no operand is a weight.

        The right operand has the format of activations, and GRAD yields an error.
        """
        activations = self.forward.lhs
        return dataclasses.replace(
            self,
            forward=dataclasses.replace(self.forward, rhs=activations),
            backward=dataclasses.replace(self.backward, rhs=activations),
            gradient=dataclasses.replace(self.gradient, output=self.backward.output),
        )

    def get_config(self):
        config = {name: getattr(self, name).get_config() for name in _GEMMS}
        for name in ("weights", "activations", "errors", "gradients"):
            format = getattr(self, name)
            config[name] = None if format is None else format.spec
        config["rounding"] = self.rounding.value
        config["inference_rounding"] = self.inference_rounding.value
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in _GEMMS:
            config[name] = Gemm.from_config(config[name])
        for name in ("weights", "activations", "errors", "gradients"):
            if config[name] is not None:
                config[name] = formats.parse_spec(config[name])
        return cls(**config)


_GEMMS = ("forward", "backward", "gradient")


def as_policy(precision, argument="precision"):
    """A Gemm stands for a Policy that uses it in all three passes."""
    if isinstance(precision, Policy):
        return precision
    if isinstance(precision, Gemm):
        return Policy(forward=precision, backward=precision, gradient=precision)
    raise ValueError(f"{argument} = {precision!r} must be a tf_lowprec.Gemm or tf_lowprec.Policy")
