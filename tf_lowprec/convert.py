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


def convert(model, precision):
    """A model, or layer, of the same layers, names and weights, under a precision.

    Dense, Conv and the other stock layers that tf_lowprec.layers has are replaced by ours, ours
    get the new precision; in Sequential and functional models, in models nested in them and in
    TimeDistributed and Bidirectional. Subclassed models and layers are copied through their config,
    and the layers in their attributes (and in lists, tuples and dictionaries there) are replaced,
    on Keras 3; on Keras 2 they stay as they are.
    What is not replaced although it multiplies, or may, is listed in a warning of the logger
    "tf_lowprec" and by `unconverted`. The model comes back uncompiled, and `model` is left as it
    is.

    Args:
        model: a built model or layer. A subclassed one, or any it contains, needs a working
            get_config and from_config.
        precision: a Policy (or Gemm) for all layers, a PolicyMap by their names, or a Plan; layers
            that a plan has not keep their stock class.

    Returns:
        The converted model or layer.

    Raises:
        ValueError: a model that is not built or cannot be copied, a plan for another model, a
            precision of the wrong kind.
    """
    if not isinstance(model, tf.keras.layers.Layer):
        raise ValueError(f"model = {model!r} must be a tf.keras.Model or a Keras layer")
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is not built: give it a tf.keras.Input, or call it on a batch"
        )
    policy_of = _policy_of(precision, model)
    if isinstance(model, tf.keras.Model) and _is_clonable(model):
        converted = _convert_model(model, policy_of)
        converted.set_weights(model.get_weights())
    else:
        converted = _convert_built(model, policy_of)
    rest = unconverted(converted)
    if rest:
        listed = "; ".join(f"{path} ({kind}): {reason}" for path, kind, reason in rest)
        _LOG.warning("%s: not converted, they stay in float32: %s", model.name, listed)
    return converted


def unconverted(model):
    """(path, class, reason) of layers that multiply matrices, or may, without a precision."""
    found, seen = [], set()

    def visit(owner, prefix):
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
            inner = {id(w) for part in sublayers(layer) for w in part.weights}
            owns = any(id(w) not in inner for w in layer.weights)
            if not is_stock(cls) and not isinstance(layer, tf.keras.Model) and owns:
                found.append((path, cls.__name__, "a class of its own"))
            visit(layer, f"{path}/")

    visit(model, "")
    return tuple(found)


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


def _is_clonable(model):
    # Of Keras's own model classes, that is: Sequential or functional.
    return is_stock(type(model))


def _convert_model(model, policy_of):
    def clone(layer):
        if isinstance(layer, tf.keras.Model) and _is_clonable(layer):
            return _convert_model(layer, policy_of)
        if not _is_leaf(layer):
            with contextlib.suppress(_CannotCopyError):  # then it stays, and is listed
                return _convert_built(layer, policy_of)
            return layer.__class__.from_config(layer.get_config())
        return _convert_layer(layer, policy_of)

    return tf.keras.models.clone_model(model, clone_function=clone)


def _is_leaf(layer):
    """Whether `_convert_layer` does: ours, stock layers, and what holds no layers."""
    return is_stock(type(layer)) or isinstance(layer, PrecisionLayer) or not sublayers(layer)


def _convert_built(layer, policy_of):
    """A built copy, with the weights, of a layer or model whose own code calls its layers."""
    if _is_leaf(layer) and not isinstance(layer, tf.keras.Model):
        copy = _convert_layer(layer, policy_of)
        _build_like(copy, layer)
    else:
        copy = _copy(layer)
        replacements = {}
        # The original's layers tell name and policy: those of the copy may be numbered anew.
        for old, inner in zip(sublayers(layer), sublayers(copy), strict=True):
            if isinstance(old, tf.keras.Model) and _is_clonable(old):
                new = _convert_model(old, policy_of)
            elif type(old) in REPLACEMENTS or not _is_leaf(old):
                new = _convert_built(old, policy_of)
            else:
                continue
            replacements[id(inner)] = new
        replace_in_attributes(copy, replacements)
    copy.set_weights(layer.get_weights())
    return copy


class _CannotCopyError(ValueError):
    pass


def _copy(layer):
    """A layer of the same class and config, built."""
    if not KERAS_3:
        raise _CannotCopyError(
            f"{layer.name!r} of class {type(layer).__name__} cannot be copied on Keras 2, since it "
            "calls its layers itself: use Keras 3, or make its layers from tf_lowprec.layers"
        )
    try:
        copy = layer.__class__.from_config(layer.get_config())
        _build_like(copy, layer)
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise _CannotCopyError(
            f"{layer.name!r} of class {type(layer).__name__} cannot be copied: give it get_config "
            f"and from_config, or make its layers from tf_lowprec.layers: {error}"
        ) from error
    if len(sublayers(copy)) != len(sublayers(layer)):
        raise _CannotCopyError(
            f"{layer.name!r} of class {type(layer).__name__} cannot be copied: its copy has "
            f"{len(sublayers(copy))} layers where it has {len(sublayers(layer))}"
        )
    if len(copy.weights) != len(layer.weights):
        raise _CannotCopyError(
            f"{layer.name!r} of class {type(layer).__name__} cannot be copied: its copy has "
            f"{len(copy.weights)} weights where it has {len(layer.weights)}; its build must build "
            "its layers (or give it get_build_config and build_from_config)"
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


def _convert_layer(layer, policy_of):
    cls = REPLACEMENTS.get(type(layer), type(layer))
    config = layer.get_config()
    if issubclass(cls, PrecisionLayer):
        policy = policy_of(layer)
        if policy is None:
            return layer.__class__.from_config(config)
        if getattr(layer, "lora_enabled", False) and not policy.is_native:
            raise ValueError(
                f"layer {layer.name!r} has LoRA, whose products are float32's: leave it at "
                "Policy.float32(), by a PolicyMap"
            )
        return cls.from_config({**config, "precision": policy})
    if isinstance(layer, (tf.keras.layers.TimeDistributed, tf.keras.layers.Bidirectional)):
        return _convert_wrapper(layer, config, policy_of)
    return layer.__class__.from_config(config)


def _convert_wrapper(layer, config, policy_of):
    """A wrapper around converted layers; not through its config, which Keras 2 misreads."""
    for key in ("layer", "backward_layer", "num_constants"):
        config.pop(key, None)

    def part(inner):
        return _convert_layer(inner, policy_of)

    if isinstance(layer, tf.keras.layers.TimeDistributed):
        return layer.__class__(part(layer.layer), **config)
    forward, backward = part(layer.forward_layer), part(layer.backward_layer)
    # Keras puts these before the names again; Keras 3 only before the forward layer's.
    forward = _renamed(forward, forward.name.removeprefix("forward_"))
    if not KERAS_3:
        backward = _renamed(backward, backward.name.removeprefix("backward_"))
    return layer.__class__(forward, backward_layer=backward, **config)


def _renamed(layer, name):
    return layer.__class__.from_config({**layer.get_config(), "name": name})
