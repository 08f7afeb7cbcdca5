"""What the low-precision layers add to their stock Keras parents: all of it is here."""

import inspect
import math

import tensorflow as tf

from tf_lowprec._keras import KERAS_3, deserialize_keras_object, serialize_keras_object
from tf_lowprec.layers.seed_state import make_seed_state, next_seed
from tf_lowprec.ops.bias import add_bias
from tf_lowprec.ops.errors import round_error
from tf_lowprec.ops.quantize import quantize, round_to
from tf_lowprec.ops.seeds import fold_in_replica
from tf_lowprec.ops.streams import Stream
from tf_lowprec.policy_map import PolicyMap
from tf_lowprec.precision import Gemm, Policy, as_policy

# On the grid where their input is, so they need no rounding of their own.
_EXACT_ACTIVATIONS = (tf.keras.activations.linear, tf.keras.activations.relu)


class OnGrid(tf.keras.initializers.Initializer):
    """The values of another initializer, rounded to nearest even in `format`."""

    def __init__(self, initializer, format):
        # Keras's recurrent cells pass a function as initializer.
        is_function = inspect.isfunction(initializer)
        self.initializer = initializer if is_function else tf.keras.initializers.get(initializer)
        self.format = format

    def __call__(self, shape, dtype=None, **kwargs):
        return quantize(self.initializer(shape, dtype=dtype, **kwargs), self.format)


class PrecisionLayer:
    """Mixin before a Keras layer: a precision policy, its random seeds, its serialization.

    A layer computes, with each rounding as its policy says:
    ``GEMM -> round -> + bias -> round -> activation -> round``.

    Args:
        precision: a Policy, or a Gemm for all three passes, or a PolicyMap that knows the layer's
            name. Default: Policy.float32(), under which the layer is its parent, bit for bit.
        seed: integer from which the layer's stochastic roundings are drawn (and its dropout, if
            it has any). Default: drawn by Python's `random`, which keras.utils.set_random_seed
            sets.

    Raises:
        ValueError: a precision of another kind; under one that is not native, channels_first,
            LoRA, or a recurrent layer's time_major.
    """

    def __init__(self, *args, precision=None, seed=None, **kwargs):
        if precision is None:
            precision = Policy.float32()
        elif not isinstance(precision, PolicyMap):
            precision = as_policy(precision)
        if seed is not None and "seed" in inspect.signature(super().__init__).parameters:
            kwargs["seed"] = seed
        super().__init__(*args, **kwargs)
        if isinstance(precision, PolicyMap):
            precision = precision.for_layer(self.name)
        self.precision = precision
        self.seed = seed
        self._seed_state = None
        if not precision.is_native:
            self._leave_keras_precision()
            for name, allowed in (
                ("data_format", "channels_last"),
                ("lora_rank", None),
                ("time_major", False),
            ):
                if (getattr(self, name, None) or allowed) != allowed:
                    raise ValueError(
                        f"{name} = {getattr(self, name)!r} must be {allowed!r} under a "
                        "low-precision policy"
                    )

    def _leave_keras_precision(self):
        """float32 inside, whatever Keras's dtype policy; no XLA, which has no kernels of ours."""
        setattr(self, "autocast" if KERAS_3 else "_autocast", False)
        self.supports_jit = False

    def build(self, input_shape, *other_shapes):
        super().build(input_shape, *other_shapes)
        self._check_lengths(input_shape)
        self._make_seed_state()

    def _check_lengths(self, input_shape):
        """Refuses sums too long for Accumulator.wide(), before the first call does.

        Those of FWD alone: the others are taken in training only.
        """
        if self.precision.forward.accumulator.kind == "wide":
            for length in self._forward_lengths(input_shape):
                self.precision.forward.check_length(length)

    def _forward_lengths(self, input_shape):
        """Terms of FWD's sums, once built: over all axes of the kernel but the last."""
        return [math.prod(self.kernel.shape[:-1])]

    def enable_lora(self, *args, **kwargs):
        if not self.precision.is_native:
            raise ValueError(
                "enable_lora: its products are float32's, so that it needs Policy.float32(), not "
                "a low-precision policy"
            )
        super().enable_lora(*args, **kwargs)

    def _make_seed_state(self):
        # When the layer is built, not at the first call: under a tf.distribute strategy that would
        # be too late.
        if self.precision.is_stochastic and self._seed_state is None:
            self._seed_state = make_seed_state(self.seed)

    def add_weight(self, *args, **kwargs):
        if not self.precision.is_native:
            kwargs["autocast" if KERAS_3 else "experimental_autocast"] = False
            if tf.as_dtype(kwargs.get("dtype") or tf.float32).is_floating:
                kwargs["dtype"] = "float32"
        format = self.precision.weights
        if format is not None and kwargs.get("initializer") is not None:
            kwargs["initializer"] = OnGrid(kwargs["initializer"], format)
        return super().add_weight(*args, **kwargs)

    def _policy_and_seed(self, training):
        """The policy of this call, and a seed that is another one at each."""
        policy = self.precision if training else self.precision.for_inference()
        if not policy.is_stochastic:
            return policy, tf.constant([0, 0], tf.int32)
        return policy, fold_in_replica(next_seed(self._seed_state))

    def _low_precision_call(self, inputs, product, training, kernel=None):
        """The layer's computation around product(inputs, kernel, policy, seed)."""
        policy, seed = self._policy_and_seed(training)
        kernel = self.kernel if kernel is None else kernel
        y = affine(inputs, kernel, getattr(self, "bias", None), product, policy, seed)
        y = activate(y, self.activation, policy, seed)
        return tf.cast(y, self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config["precision"] = serialize_keras_object(self.precision)
        config["seed"] = self.seed
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("precision"), dict):
            # By these names Keras 2 looks for them in .h5 files, not by those that we registered.
            config["precision"] = deserialize_keras_object(
                config["precision"], custom_objects={"Policy": Policy, "Gemm": Gemm}
            )
        return super().from_config(config)


def affine(inputs, kernel, bias, product, policy, seed):
    """``round(round(product(inputs, kernel)) + bias)``; its error is rounded on the way back.

    Args:
        inputs: of any float dtype.
        kernel, bias: variables or tensors; bias may be None.
        product: (inputs, kernel, policy, seed) -> tensor.
        policy: a Policy.
        seed: two integers as a tensor.
    """
    y = product(tf.cast(inputs, tf.float32), tf.convert_to_tensor(kernel), policy, seed)
    if bias is not None:
        y = add_bias(y, tf.convert_to_tensor(bias), policy, policy.forward.output, seed)
    elif policy.forward.output != policy.activations:
        y = round_to(y, policy.activations, policy.rounding, seed, Stream.BIAS)
    return round_error(y, policy.errors, policy.rounding, seed, Stream.ERROR)


def over_images(function, x, rank):
    """function(x) of the last `rank` axes of x; those before them are one axis to it.

    Keras 2's convolutions take any number of batch axes.
    """
    lead = x.shape.rank - rank
    if lead == 1:
        return function(x)
    batch, image = tf.shape(x)[:lead], tf.shape(x)[lead:]
    images = tf.reshape(x, tf.concat([[tf.reduce_prod(batch)], image], 0))
    images.set_shape([None, *x.shape[lead:]])
    y = function(images)
    result = tf.reshape(y, tf.concat([batch, tf.shape(y)[1:]], 0))
    result.set_shape([*x.shape[:lead], *y.shape[1:]])
    return result


def activate(y, activation, policy, seed, stream=Stream.ACTIVATION):
    """``round(activation(y))``; what stays on its grid is not rounded, nor is a softmax."""
    if activation is None:
        return y
    y = activation(y)
    if activation is tf.keras.activations.softmax or activation in _EXACT_ACTIVATIONS:
        return y
    return round_to(y, policy.activations, policy.rounding, seed, stream)
