"""Which Keras tf.keras is. Code that serves both asks here, and nowhere else."""

import tensorflow as tf

# Keras 3 from TensorFlow 2.16 on, unless TF_USE_LEGACY_KERAS asks for Keras 2 (tf_keras).
KERAS_3 = hasattr(tf.keras, "random")

_saving = tf.keras.utils if KERAS_3 else tf.keras.saving
serialize_keras_object = _saving.serialize_keras_object
deserialize_keras_object = _saving.deserialize_keras_object

_WRAPPER_FROM_CONFIG = tf.keras.layers.Wrapper.from_config.__func__


def _wrapper_from_config(cls, config, custom_objects=None):
    config = {**config, "layer": _by_registered_names(config["layer"])}
    return _WRAPPER_FROM_CONFIG(cls, config, custom_objects)


def _by_registered_names(config):
    """A layer's or model's config, in which our layers are called what we registered them as."""
    if isinstance(config, (list, tuple)):
        return type(config)(_by_registered_names(item) for item in config)
    if not isinstance(config, dict):
        return config
    config = {key: _by_registered_names(value) for key, value in config.items()}
    if str(config.get("registered_name")).startswith("tf_lowprec>"):
        config["class_name"] = config["registered_name"]
    return config


if not KERAS_3:
    # Keras 2's Wrapper (TimeDistributed and others) looks for the layer inside by its class_name
    # alone: of our Dense it would make a stock one. The name that we registered, it finds.
    tf.keras.layers.Wrapper.from_config = classmethod(_wrapper_from_config)


def replace_sublayer(owner, name, layer):
    """Makes `layer` the attribute `name` of a Keras layer, and forgets the layer that it was."""
    if KERAS_3:
        owner._tracker.untrack(getattr(owner, name))  # assignment alone would keep both
    else:
        delattr(owner, name)
    setattr(owner, name, layer)


def replace_in_attributes(owner, replacements):
    """Puts other layers in place of a layer's own, in attributes, lists, tuples and dictionaries.

    Args:
        owner: a layer or subclassed model.
        replacements: {id of a layer directly inside it: the layer to put there}.

    Returns:
        ids of the layers that were found and replaced.
    """
    order, found = sublayers(owner), set()
    if KERAS_3:
        owner._tracker.unlock()  # of a built layer

    def swap(value):
        if id(value) in replacements:
            found.add(id(value))
            return replacements[id(value)]
        if isinstance(value, dict):
            return {key: swap(item) for key, item in value.items()}
        if isinstance(value, list):
            return [swap(item) for item in value]
        if type(value) is tuple:
            return tuple(swap(item) for item in value)
        return value

    for name, value in list(vars(owner).items()):
        if name in _TRACKERS or not isinstance(value, (tf.keras.layers.Layer, list, tuple, dict)):
            continue
        before = len(found)
        changed = swap(value)
        if len(found) == before and changed is not replacements.get(id(value)):
            continue
        if KERAS_3:
            for old in order:
                if id(old) in found:
                    owner._tracker.untrack(old)
        else:
            delattr(owner, name)
        setattr(owner, name, changed)
    _restore_order(owner, [replacements[id(x)] if id(x) in found else x for x in order])
    if KERAS_3:
        owner._tracker.lock()
    return found


# Where Keras keeps what it tracks.
_TRACKERS = frozenset({"_layers", "_self_tracked_trackables", "_metrics", "_losses", "_tracker"})


def _restore_order(owner, layers):
    """Brings the tracked layers into this order, which is that of the weights."""
    tracked = owner._layers if KERAS_3 else owner._self_tracked_trackables
    place = {id(layer): index for index, layer in enumerate(layers)}
    if all(id(item) in place for item in tracked):
        tracked.sort(key=lambda item: place[id(item)])


def sublayers(layer):
    """The layers directly inside a layer or model."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def compute_in_float32(layer):
    """Gives a Keras layer the dtype policy float32, whatever it was made with."""
    if KERAS_3:
        layer.dtype_policy = "float32"
    else:
        layer._set_dtype_policy("float32")


def native(variable):
    """The tf.Variable inside a Keras 3 variable; a Keras 2 variable is one."""
    return variable.value if KERAS_3 else variable
