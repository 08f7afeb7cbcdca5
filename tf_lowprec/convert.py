"""lp.convert: a stock Keras model with low-precision layers in place of its own."""

import contextlib
import logging

import tensorflow as tf

from tf_lowprec import layers
from tf_lowprec._keras import KERAS_3, replace_in_attributes, sublayers
from tf_lowprec.analysis.gemms import is_stock
from tf_lowprec.analysis.plan import Plan
from tf_lowprec.analysis.promotion import PromotionPlan
from tf_lowprec.analysis.trace import layer_paths
from tf_lowprec.layers.precision_layer import PrecisionLayer
from tf_lowprec.policy_map import PolicyMap
from tf_lowprec.precision import as_policy

_LOG = logging.getLogger("tf_lowprec")

#: {stock class: ours of the same name}.
REPLACEMENTS = {getattr(tf.keras.layers, name): getattr(layers, name) for name in layers.__all__}

_KEPT = "no policy for it, or inside a layer or model that cannot be copied"
_UNSEEN = "it may multiply: its function is not looked into"

# Stock layers that multiply matrices and have no counterpart here, whatever their weights.
_STOCK_PRODUCTS = frozenset(
    {
        *("AdditiveAttention", "Attention", "GroupQueryAttention", "Bilinear", "Dot"),
        *("Conv1DTranspose", "Conv3D", "Conv3DTranspose", "DepthwiseConv1D"),
        *("SeparableConv1D", "SeparableConv2D", "LocallyConnected1D", "LocallyConnected2D"),
        *("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "SimpleRNN", "SimpleRNNCell"),
        *("GRUCell", "LSTMCell", "SpectralNormalization"),
    }
)


# Operations of functional models that multiply matrices or convolve: Keras 3's classes, and how the
# names of Keras 2's, "linalg.matmul" for one, end.
_PRODUCT_OPERATIONS = frozenset(
    {
        *("Matmul", "Einsum", "Dot", "Tensordot", "Vdot", "Inner", "Correlate"),
        *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv", "DotProductAttention"),
        *("matmul", "matvec", "einsum", "tensordot", "batch_dot", "dot", "sparse_dense_matmul"),
        *("conv1d", "conv2d", "conv3d", "convolution", "atrous_conv2d", "depthwise_conv2d"),
        *("separable_conv2d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose"),
        *("conv_transpose", "atrous_conv2d_transpose"),
    }
)
# Those that call a function, whatever it computes.
_CALLING_OPERATIONS = frozenset(
    {
        *("Map", "VectorizedMap", "Scan", "AssociativeScan", "Cond", "Switch"),
        *("WhileLoop", "ForiLoop"),
        *("map_fn", "vectorized_map", "scan", "foldl", "foldr", "cond", "switch_case", "case"),
        *("while_loop", "py_function", "numpy_function"),
    }
)

# What a layer must have under a low-precision policy, for its attributes.
_NEEDED = {
    "data_format": "channels_last",
    "time_major": False,
    "recurrent_dropout": 0,
    "_flash_attention": False,
}

_LOOKUPS = (
    tf.keras.layers.StringLookup,
    tf.keras.layers.IntegerLookup,
    tf.keras.layers.TextVectorization,
)


def convert(model, policy_or_plan):
    """A model, or layer, of the same layers, names and weights, under a precision.

    Dense, Conv and the other stock layers that tf_lowprec.layers has are replaced by ours, ours
    get the new precision; in Sequential and functional models, in models nested in them and in
    TimeDistributed and Bidirectional. Subclassed models and layers are copied through their config,
    and the layers in their attributes (and in lists, tuples and dictionaries there) are replaced,
    on Keras 3; on Keras 2 they stay as they are.
    A layer that stands in several places is one layer in the copy too. What is not replaced
    although it multiplies, or may, is listed in a warning of the logger "tf_lowprec" and by
    `unconverted`. The model comes back uncompiled, and `model` is left as it is.

    Args:
        model: a built model or layer. A subclassed one, or any it contains, needs a working
            get_config and from_config.
        policy_or_plan: a Policy (or Gemm) for all layers, a PolicyMap by their names, or a Plan;
            layers that a plan has not keep their stock class.

    Returns:
        The converted model or layer.

    Raises:
        ValueError: a model that is not built or cannot be copied, a plan for another model, a
            precision of the wrong kind; for a layer that gets a low-precision policy,
            channels_first, recurrent_dropout, LoRA, flash attention or time_major.
    """
    if not isinstance(model, tf.keras.layers.Layer):
        raise ValueError(f"model = {model!r} must be a tf.keras.Model or a Keras layer")
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is not built: give it a tf.keras.Input, or call it on a batch"
        )
    conversion = _Conversion(_policy_of(policy_or_plan, model))
    if _is_clonable(model):
        converted = conversion.model(model)
        _set_weights(converted, model)
    else:
        converted = conversion.built(model)
    for layer in (converted, *(layer for _, layer in layer_paths(converted))):
        if isinstance(layer, tf.keras.layers.Normalization):
            layer.finalize_state()  # Keras 3's computes with tensors made from its weights
    rest = unconverted(converted)
    if rest:
        listed = "; ".join(f"{path} ({kind}): {reason}" for path, kind, reason in rest)
        _LOG.warning("%s: not converted, they stay in float32: %s", model.name, listed)
    return converted


def unconverted(model):
    """(path, class, reason) of what multiplies matrices, or may, without a precision.

    Layers, and the operations of functional models (`keras.ops.matmul`, on Keras 2 `tf.matmul`, on
    a layer's output). What the code of a subclassed model or layer itself multiplies is not seen;
    `lp.analysis.plan` sees it.

    Args:
        model: a Keras model or layer.
    """
    found, seen = [], set()

    def visit(owner, prefix):
        for operation in _operations(owner):
            kind = type(operation).__name__
            if reason := _reason_of(kind):
                found.append((f"{prefix}{operation.name}", kind, reason))
        for layer in sublayers(owner):
            if id(layer) in seen or isinstance(layer, PrecisionLayer):
                continue
            seen.add(id(layer))
            path, cls = f"{prefix}{layer.name}", type(layer)
            if cls in REPLACEMENTS:
                found.append((path, cls.__name__, _KEPT))
                continue
            if cls.__name__ in _STOCK_PRODUCTS and is_stock(cls):
                found.append((path, cls.__name__, "tf_lowprec.layers has no such layer"))
                continue
            if isinstance(layer, tf.keras.layers.Lambda):
                found.append((path, cls.__name__, _UNSEEN))
                continue
            if cls.__name__ == "TFOpLambda":  # Keras 2's operations
                if reason := _reason_of((layer.symbol or layer.function.__name__).split(".")[-1]):
                    found.append((path, cls.__name__, reason))
                continue
            inner = {id(w) for part in sublayers(layer) for w in part.weights}
            owns = any(id(w) not in inner for w in layer.weights)
            if not is_stock(cls) and not isinstance(layer, tf.keras.Model) and owns:
                found.append((path, cls.__name__, "a class of its own"))
            visit(layer, f"{path}/")

    visit(model, "")
    return tuple(found)


def _operations(model):
    """Keras 3's operations, which are no layers, in a functional or Sequential model."""
    graph = getattr(model, "_functional", None) or model
    return [
        operation
        for operation in getattr(graph, "operations", ())
        if not isinstance(operation, tf.keras.layers.Layer)
    ]


def _reason_of(operation):
    """Why an operation of that name is listed, or None."""
    if operation in _PRODUCT_OPERATIONS:
        return "an operation outside of layers"
    return _UNSEEN if operation in _CALLING_OPERATIONS else None


def _policy_of(precision, model):
    """Layer of the original -> Policy, or None to leave it."""
    if isinstance(precision, (Plan, PromotionPlan)):
        policies = precision.policies()
        layers_of = dict(layer_paths(model))
        missing = sorted(set(policies) - set(layers_of))
        if missing:
            raise ValueError(
                f"the plan of {precision.model!r} has layers that {model.name!r} lacks: "
                f"{', '.join(missing[:5])}; make a plan of this model"
            )
        planned = {id(layers_of[path]): policy for path, policy in policies.items()}
        return lambda layer: planned.get(id(layer))
    if isinstance(precision, PolicyMap):
        return lambda layer: precision.for_layer(layer.name)
    policy = as_policy(precision)
    return lambda layer: policy


def _is_clonable(layer):
    # A model of Keras's own classes, that is: Sequential or functional.
    return isinstance(layer, tf.keras.Model) and is_stock(type(layer))


def _is_leaf(layer):
    """Whether it is copied by its config alone: ours, stock layers, and what holds no layers."""
    return is_stock(type(layer)) or isinstance(layer, PrecisionLayer) or not sublayers(layer)


class _Conversion:
    """Copies of layers, each copied once, so that what shares a layer in the original does here."""

    def __init__(self, policy_of):
        self._policy_of = policy_of
        self._copies = {}  # {id of the original's: the copy's}

    def model(self, model):
        """A copy of a Sequential or functional model, without its weights."""
        with _uncompiled(model):
            return tf.keras.models.clone_model(model, clone_function=self._copy)

    def built(self, layer):
        """A built copy, with the weights, of a layer, or of a model whose own code calls layers."""
        if _is_leaf(layer) and not isinstance(layer, tf.keras.Model):
            copy = self._leaf(layer)
            _build_like(copy, layer)
        else:
            copy = _copy_built(layer)
            replacements = {}
            # The original's layers tell name and policy: those of the copy may be numbered anew.
            for old, inner in zip(sublayers(layer), sublayers(copy), strict=True):
                if id(old) in self._copies or self._is_converted(old):
                    replacements[id(inner)] = self._copy_inside(old)
                else:
                    _carry_vocabulary(inner, old)
                    self._copies[id(old)] = inner
            replace_in_attributes(copy, replacements)
        _set_weights(copy, layer)
        return copy

    def _is_converted(self, layer):
        wrappers = (tf.keras.layers.TimeDistributed, tf.keras.layers.Bidirectional)
        return (
            _is_clonable(layer) or type(layer) in (*REPLACEMENTS, *wrappers) or not _is_leaf(layer)
        )

    def _copy_inside(self, layer):
        """The copy for a layer inside one whose own code calls it: Keras will not build it."""
        if id(layer) not in self._copies:
            make = self.model if _is_clonable(layer) else self.built
            self._copies[id(layer)] = make(layer)
        _build_like(self._copies[id(layer)], layer)
        return self._copies[id(layer)]

    def _copy(self, layer):
        """The copy for a layer, or an operation, of a Sequential or functional model."""
        if id(layer) not in self._copies:
            self._copies[id(layer)] = self._new(layer)
        return self._copies[id(layer)]

    def _new(self, layer):
        if not isinstance(layer, tf.keras.layers.Layer):
            with contextlib.suppress(_CannotCopyError):
                return _from_config(layer)
            return layer  # an operation with a function: it has no weights
        if _is_clonable(layer):
            return self.model(layer)
        if _is_leaf(layer):
            return self._leaf(layer)
        with contextlib.suppress(_CannotCopyError):  # then it stays, and is listed
            return self.built(layer)
        return _from_config(layer)

    def _leaf(self, layer):
        cls = REPLACEMENTS.get(type(layer), type(layer))
        if issubclass(cls, PrecisionLayer):
            policy = self._policy_of(layer)
            if policy is None:
                return _from_config(layer)
            _check(layer, policy)
            return _from_config(layer, cls, precision=policy)
        if isinstance(layer, tf.keras.layers.TimeDistributed):
            return layer.__class__(self._copy(layer.layer), **_config_without(layer, "layer"))
        if isinstance(layer, tf.keras.layers.Bidirectional):
            return self._bidirectional(layer)
        if type(layer) is tf.keras.layers.Lambda:
            return _copy_lambda(layer)
        copy = _from_config(layer)
        _carry_vocabulary(copy, layer)
        return copy

    def _bidirectional(self, layer):
        """Not through its config, which Keras 2 misreads."""
        config = _config_without(layer, "layer", "backward_layer", "num_constants")
        forward, backward = self._leaf(layer.forward_layer), self._leaf(layer.backward_layer)
        # Keras puts these before the names again; Keras 3 only before the forward layer's.
        forward = _renamed(forward, forward.name.removeprefix("forward_"))
        if not KERAS_3:
            backward = _renamed(backward, backward.name.removeprefix("backward_"))
        return layer.__class__(forward, backward_layer=backward, **config)


class _CannotCopyError(ValueError):
    def __init__(self, layer, why):
        super().__init__(f"{layer.name!r} of class {type(layer).__name__} cannot be copied: {why}")


@contextlib.contextmanager
def _uncompiled(model):
    """Within it, Keras 3's clone_model does not compile the copy like the model."""
    compiled = getattr(model, "compiled", False)
    if compiled:
        model.compiled = False
    try:
        yield
    finally:
        if compiled:
            model.compiled = True


def _check(layer, policy):
    """Raises where a layer has what no low-precision layer has."""
    if policy.is_native:
        return
    fix = "under a low-precision policy: leave it at Policy.float32(), by a PolicyMap"
    if getattr(layer, "lora_enabled", False):
        raise ValueError(f"layer {layer.name!r} has LoRA, whose products are float32's, {fix}")
    for name, needed in _NEEDED.items():
        value = getattr(layer, name, None) or needed
        if value != needed:
            raise ValueError(
                f"layer {layer.name!r}: {name.lstrip('_')} = {value!r} must be {needed!r} {fix}"
            )


def _from_config(layer, cls=None, **changes):
    try:
        return (cls or type(layer)).from_config({**layer.get_config(), **changes})
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise _CannotCopyError(
            layer,
            "give it get_config and from_config, or make its layers from tf_lowprec.layers: "
            f"{error}",
        ) from error


def _copy_lambda(layer):
    """With the same function: Keras takes none that is a Python lambda from a config."""
    return tf.keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=dict(layer.arguments),
        **tf.keras.layers.Layer.get_config(layer),
    )


def _carry_vocabulary(copy, layer):
    """Gives a lookup layer the words that the original was adapted to: Keras 3 has them nowhere."""
    if not (KERAS_3 and isinstance(layer, _LOOKUPS)):
        return
    words = layer.get_vocabulary()
    if list(words) == list(copy.get_vocabulary()):
        return
    lookup = getattr(layer, "_lookup_layer", layer)
    idf = lookup.idf_weights_const.numpy()[: len(words)] if lookup.output_mode == "tf_idf" else None
    copy.set_vocabulary(words, idf)


def _copy_built(layer):
    """A layer of the same class and config, built."""
    if not KERAS_3:
        raise _CannotCopyError(
            layer,
            "it calls its layers itself, which needs Keras 3; or make its layers from "
            "tf_lowprec.layers",
        )
    copy = _from_config(layer)
    try:
        _build_like(copy, layer)
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise _CannotCopyError(layer, f"its build fails: {error}") from error
    if len(sublayers(copy)) != len(sublayers(layer)):
        raise _CannotCopyError(
            layer,
            f"its copy has {len(sublayers(copy))} layers where it has {len(sublayers(layer))}",
        )
    if len(copy.weights) != len(layer.weights):
        raise _CannotCopyError(
            layer,
            f"its copy has {len(copy.weights)} weights where it has {len(layer.weights)}; its "
            "build must build its layers (or give it get_build_config and build_from_config)",
        )
    return copy


def _build_like(copy, layer):
    config = layer.get_build_config() or {}
    shape = config.get("input_shape")
    builds = type(layer).build is not tf.keras.layers.Layer.build
    if not copy.built and layer.built and (builds or shape is None):
        copy.build_from_config(config)
    if len(copy.weights) < len(layer.weights) and isinstance(shape, (tuple, list)):
        copy(tf.keras.Input(tuple(shape[1:])))  # its layers are built when it is called


def _set_weights(copy, layer):
    if len(copy.weights) != len(layer.weights):
        raise ValueError(
            f"{layer.name!r} cannot be copied: its copy has {len(copy.weights)} weights where it "
            f"has {len(layer.weights)}; layers in it share weights in a way not known here: make "
            "them from tf_lowprec.layers"
        )
    copy.set_weights(layer.get_weights())


def _config_without(layer, *keys):
    return {key: value for key, value in layer.get_config().items() if key not in keys}


def _renamed(layer, name):
    return layer.__class__.from_config({**layer.get_config(), "name": name})
