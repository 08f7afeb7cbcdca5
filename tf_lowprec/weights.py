"""Weights as integers with their formats, for FPGAs, microcontrollers and archives."""

import json
import pathlib
import re
import zipfile

import numpy as np
import tensorflow as tf

from tf_lowprec.layers.precision_layer import PrecisionLayer
from tf_lowprec.ops.bits import from_bits, storage_dtype, to_bits

_VERSION = 1


def _layers(model):
    """(path, layer) of every layer that owns weights, in a stable order; paths are unique."""
    seen = {}
    for layer in model.layers:
        if isinstance(layer, tf.keras.Model):
            yield from ((f"{layer.name}/{path}", inner) for path, inner in _layers(layer))
        elif layer.weights:
            count = seen[layer.name] = seen.get(layer.name, 0) + 1
            yield (layer.name if count == 1 else f"{layer.name}_{count}"), layer


def _entries(model):
    """(key, tf variable-like, format or None) of every weight of the model."""
    for path, layer in _layers(model):
        names = {}
        for weight in layer.weights:
            name = re.sub(r":\d+$", "", weight.name).split("/")[-1]
            count = names[name] = names.get(name, 0) + 1
            key = f"{path}/{name}" if count == 1 else f"{path}/{name}_{count}"
            is_ours = isinstance(layer, PrecisionLayer) and weight.trainable
            yield key, weight, layer.precision.weights if is_ours else None


def export_weights(model, path):
    """Writes a model's weights as packed integers: `path`.npz, and their formats: `path`.json.

    A weight of a layer whose policy has a `weights` format is stored as `to_bits` of it, in int8,
    int16 or int32; any other as it is. The JSON file lists, for each array of the npz file, its
    format's spec, its word length, shape and dtype.

    Args:
        model: a built Keras model.
        path: file name; a suffix .npz or .json is dropped.

    Returns:
        The two paths (npz, json).

    Raises:
        ValueError: a model without weights.
        tf.errors.InvalidArgumentError: a weight that is off its format's grid, as those of a model
            that was just converted: train with optimizers.LowPrecision, or round it.
    """
    entries = list(_entries(model))
    if not entries:
        raise ValueError("model has no weights: build it first, for example with keras.Input")
    arrays, manifest = {}, {}
    for key, weight, format in entries:
        arrays[key] = _exported(key, tf.convert_to_tensor(weight), format)
        manifest[key] = {
            "format": None if format is None else format.spec,
            "bits": None if format is None else format.bits,
            "shape": list(arrays[key].shape),
            "dtype": arrays[key].dtype.name,
        }
    npz, index = _paths(path)
    npz.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(npz, **arrays)
    document = {"tf_lowprec_weights": _VERSION, "model": model.name, "weights": manifest}
    index.write_text(json.dumps(document, indent=1) + "\n")
    return npz, index


def _exported(key, value, format):
    """The array that is stored of one weight."""
    if format is None:
        return value.numpy()
    try:
        return to_bits(value, format).numpy()
    except tf.errors.InvalidArgumentError as error:
        # "x[0] = 0.3 (flat index) is not on the grid of format 'fixed<2,14>'; round it first: ..."
        what = error.message.partition("x[")[2].partition(";")[0]
        raise tf.errors.InvalidArgumentError(
            None,
            None,
            f"{key}[{what}; round it, weight.assign(lp.quantize(weight, format)), or train with "
            "optimizers.LowPrecision first",
        ) from None


def import_weights(model, path):
    """Puts the weights that `export_weights` wrote back into a model of the same layers.

    Everything is read and checked first; where anything is wrong, no weight changes.

    Args:
        model: a built Keras model, with layers of the same names, shapes and formats.
        path: as in `export_weights`.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a file is damaged, or does not fit the model; the message names the weight.
    """
    npz, index = _paths(path)
    try:
        document = json.loads(index.read_text())
        manifest = dict(document["weights"])
        version = document["tf_lowprec_weights"]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index} is no list of exported weights: {error}") from None
    if version != _VERSION:
        raise ValueError(f"{index} has version {version}; this library reads {_VERSION}")
    try:
        with np.load(npz, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{npz} is damaged: {error}") from None
    entries = list(_entries(model))
    names = {key for key, _, _ in entries}
    if names != set(manifest) or names != set(arrays):
        different = sorted((names ^ set(manifest)) | (names ^ set(arrays)))
        raise ValueError(f"{path} and the model differ in the weights {', '.join(different)}")
    values = []
    for key, weight, format in entries:
        values.append(_checked(key, weight, format, manifest[key], arrays[key]))
    for (_, weight, _), value in zip(entries, values):
        weight.assign(value)


def _checked(key, weight, format, entry, array):
    """The value of one weight."""
    spec = None if format is None else format.spec
    if not isinstance(entry, dict) or entry.get("format") != spec:
        stored = entry.get("format") if isinstance(entry, dict) else entry
        raise ValueError(f"{key} is stored in format {stored}, but the model has {spec}")
    if list(array.shape) != list(weight.shape):
        raise ValueError(f"{key} is stored with shape {array.shape}, the model has {weight.shape}")
    wanted = tf.as_dtype(weight.dtype if format is None else storage_dtype(format)).name
    if array.dtype.name != wanted:
        raise ValueError(f"{key} is stored as {array.dtype.name}; it must be {wanted}")
    if format is None:
        return array
    try:
        return from_bits(array, format)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{key}: {error.message}") from None


def _paths(path):
    path = pathlib.Path(path)
    stem = path.with_suffix("") if path.suffix in (".npz", ".json") else path
    return stem.with_name(stem.name + ".npz"), stem.with_name(stem.name + ".json")
