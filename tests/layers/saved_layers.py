"""Saves every layer in one of six ways, and compares in a new process: saved_layers.py FOLDER.

Each comparison is bit for bit, of the outputs and of the gradients that a training step takes.
"""

import json
import os
import pathlib
import sys
import traceback

import numpy as np
import tensorflow as tf
from compat import native
from layer_cases import CASES as ALL
from layer_cases import images

import tf_lowprec as lp

# A format and a chunk of its own for each pass, so that none is taken for another.
NEAREST = lp.Policy.fp8((5, 6, 9), chunk=(4, None, 3))
DICE = lp.Policy.fp8((5, 6, 9), chunk=(4, None, 3), accumulator_rounding="stochastic")
# Every class once.
CASES = list({case.layer: case for case in ALL}.values())
# Only checkpoints and SavedModels keep how many random numbers were drawn.
POLICIES = {
    "keras": NEAREST,
    "h5": NEAREST,
    "weights": NEAREST,
    "checkpoint": DICE,
    "export": NEAREST,
    "saved_model": DICE,
}
WAYS = [way for way in POLICIES if way != "export" or hasattr(tf.keras.Model, "export")]


def step(function, variables, x):
    """[y, dx, *dvariables] of a loss."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *tape.gradient(loss, [x, *variables])]


class Module(tf.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.variables_of_model = [native(v) for v in model.trainable_variables]
        specification = tf.TensorSpec([None, *model.input_shape[1:]])
        self.call = tf.function(self.train, input_signature=[specification])

    def train(self, x):
        return self.model(x, training=True)


def save(way, case, folder):
    """Writes a layer and what it computes next."""
    model = case.model(POLICIES[way])
    model.set_weights([images(w.shape, i) / 2 for i, w in enumerate(model.get_weights())])
    x = tf.constant(images(case.shape))
    module = Module(model)
    module.train(x)  # draws, if there is something to draw
    if way in ("keras", "h5"):
        model.save(folder / f"model.{way}")
    elif way == "weights":
        model.save_weights(str(folder / "model.weights.h5"))
    elif way == "checkpoint":
        tf.train.Checkpoint(model=model).write(str(folder / "checkpoint"))
    elif way == "export":
        model.export(str(folder / "model"))
    else:
        tf.saved_model.save(module, str(folder / "model"))
    function = {"export": model, "saved_model": module.call}.get(way, module.train)
    np.savez(folder / "want.npz", *step(function, module.variables_of_model, x))


def load(way, case, folder):
    """(function, variables) of what was saved."""
    if way == "saved_model":
        module = tf.saved_model.load(str(folder / "model"))
        # Not module.call: it does not keep the module alive.
        return lambda x: module.call(x), module.variables_of_model
    if way == "export":
        loaded = tf.saved_model.load(str(folder / "model"))
        return lambda x: loaded.serve(x), loaded.trainable_variables
    if way in ("keras", "h5"):
        model = tf.keras.models.load_model(folder / f"model.{way}")
        assert model.get_layer("layer").precision == POLICIES[way]
    else:
        model = case.model(POLICIES[way])
    if way == "weights":
        model.load_weights(str(folder / "model.weights.h5"))
    elif way == "checkpoint":
        checkpoint = tf.train.Checkpoint(model=model)
        checkpoint.read(str(folder / "checkpoint")).assert_existing_objects_matched()
    module = Module(model)
    return module.train, module.variables_of_model


def compare(way, case, folder):
    function, variables = load(way, case, folder)
    got = step(function, variables, tf.constant(images(case.shape)))
    for g, want in zip(got, np.load(folder / "want.npz").values(), strict=True):
        np.testing.assert_array_equal(g, want)


def folder_of(way, case, root):
    folder = pathlib.Path(root) / way / case.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(root):
    """Writes outcome.json: way -> layer -> what went wrong, or nothing."""
    outcome = {}
    for way in WAYS:
        outcome[way] = {}
        for case in CASES:
            try:
                compare(way, case, folder_of(way, case, root))
                outcome[way][case.name] = ""
            except Exception:
                outcome[way][case.name] = traceback.format_exc()[-3000:]
    (pathlib.Path(root) / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main(*sys.argv[1:])
