"""Which format where: the accumulator, one GEMM, and the three GEMMs of a layer."""

import dataclasses
import fractions
import json

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding

_PACKAGE = "tf_lowprec"


def _register(cls):
    return tf.keras.utils.register_keras_serializable(_PACKAGE)(cls)


@_register
@dataclasses.dataclass(frozen=True)
class Accumulator:
    """How the products of a dot product are added up. Make one with a class method."""

    kind: str = "native"

    def __post_init__(self):
        if self.kind not in ("native", "wide"):
            raise ValueError(f"kind = {self.kind!r} must be 'native' or 'wide'")

    @classmethod
    def native(cls):
        """TensorFlow's own float32 kernel: fast, no promise on the last bits."""
        return cls("native")

    @classmethod
    def wide(cls):
        """The exact sum, rounded once at the end, as Gupta et al. (2015) accumulate.

        For operands whose products and sums fit 53 bits; `exact_length` gives the bound.
        """
        return cls("wide")

    def get_config(self):
        return {"kind": self.kind}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def span_bits(format):
    """Bits of the largest magnitude of `format`, as an integer multiple of its grid's unit."""
    if isinstance(format, formats.FixedPointFormat):
        return format.bits - 1
    unit = fractions.Fraction(2) ** (format.min_exponent - format.mantissa_bits)
    return int(fractions.Fraction(format.max) / unit).bit_length()


@_register
@dataclasses.dataclass(frozen=True)
class Gemm:
    """The precision of one matrix product (or convolution).

    ``output = round(accumulate(round(lhs) * round(rhs)))``

    Args:
        lhs, rhs: formats to which the operands are rounded; None takes them as they are.
        accumulator: an Accumulator.
        output: format of the result; None leaves it in float32.
        rounding: how operands and output are rounded.

    Raises:
        ValueError: an argument of the wrong kind; a wide accumulator for operands whose exact
            sums float64 cannot hold.
    """

    lhs: object = None
    rhs: object = None
    accumulator: Accumulator = Accumulator.native()
    output: object = None
    rounding: Rounding = Rounding.NEAREST_EVEN

    def __post_init__(self):
        for name in ("lhs", "rhs", "output"):
            formats.check_format(getattr(self, name), name, optional=True)
        if not isinstance(self.accumulator, Accumulator):
            raise ValueError(
                f"accumulator = {self.accumulator!r} must be a tf_lowprec.Accumulator, such as "
                "Accumulator.native() or Accumulator.wide()"
            )
        object.__setattr__(self, "rounding", Rounding.of(self.rounding))
        if self.accumulator.kind == "wide":
            if self.lhs is None or self.rhs is None:
                raise ValueError(
                    f"Accumulator.wide() needs the formats of both operands, got lhs = {self.lhs}, "
                    f"rhs = {self.rhs}: give fixed-point formats, or use Accumulator.native()"
                )
            if self.exact_length < 1:
                raise ValueError(
                    f"lhs = {self.lhs} and rhs = {self.rhs}: their products span more than 53 "
                    "bits, beyond the exact sum of Accumulator.wide(); use narrower formats"
                )

    @property
    def exact_length(self):
        """The longest sum that is exact in 53 bits: 2^(53 - bits of a product).

        For fixed point of one word length this is ``2 WL - 2 + ceil(log2 K) <= 53``.
        """
        product = span_bits(self.lhs) + span_bits(self.rhs)
        return 2 ** (53 - product) if product <= 53 else 0

    @property
    def is_stochastic(self):
        """Whether it draws random numbers."""
        return self.rounding == Rounding.STOCHASTIC and (self.lhs, self.rhs, self.output) != (
            None,
            None,
            None,
        )

    @property
    def is_native(self):
        """Whether this is TensorFlow's own float32 product and nothing else."""
        return self == Gemm(rounding=self.rounding)

    def get_config(self):
        config = {"accumulator": self.accumulator.kind, "rounding": self.rounding.value}
        for name in ("lhs", "rhs", "output"):
            format = getattr(self, name)
            config[name] = None if format is None else format.spec
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("lhs", "rhs", "output"):
            if config.get(name) is not None:
                config[name] = formats.parse_spec(config[name])
        config["accumulator"] = Accumulator(config["accumulator"])
        return cls(**config)

    def to_json(self):
        """One line of JSON: what graphs and SavedModels hold."""
        return json.dumps(self.get_config(), sort_keys=True)

    @classmethod
    def from_json(cls, text):
        return cls.from_config(json.loads(text))


@_register
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
            if gemm.rounding != Rounding.STOCHASTIC:
                return gemm
            return dataclasses.replace(gemm, rounding=self.inference_rounding)

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
