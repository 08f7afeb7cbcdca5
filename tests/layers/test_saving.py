"""Every layer, saved in every way, gives a new process the same bits and trains on with them."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import images
from saved_layers import CASES, WAYS, folder_of, save

import tf_lowprec as lp

SCRIPT = pathlib.Path(__file__).with_name("saved_layers.py")


def environment():
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *(p for p in sys.path if p)]),
    }


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """way -> layer -> what went wrong in a new process, or nothing."""
    root = tmp_path_factory.mktemp("saved")
    for way in WAYS:
        for case in CASES:
            save(way, case, folder_of(way, case, root))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(root)],
        env=environment(),
        cwd=root,  # not the source tree, where another leg's library may lie
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((root / "outcome.json").read_text())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.layer.__name__)
def test_new_process_computes_and_trains_the_same(outcome, way, case):
    assert outcome[way][case.name] == ""


def small_model():
    policy = lp.Policy.fp8(9)
    return tf.keras.Sequential([tf.keras.Input((4,)), lp.layers.Dense(2, precision=policy)])


WITHOUT = """
import sys
import tensorflow as tf
ways = {
    "keras": lambda: tf.keras.models.load_model(sys.argv[1] + "/model.keras"),
    "saved_model": lambda: tf.saved_model.load(sys.argv[1] + "/model"),
}
for way, load in ways.items():
    try:
        load()
    except Exception as error:
        print("\\n==" + way, str(error).replace("\\n", " "))
assert "tf_lowprec" not in sys.modules
"""


def test_without_the_import_the_error_names_the_package(tmp_path):
    model = small_model()
    model.save(tmp_path / "model.keras")
    tf.saved_model.save(model, str(tmp_path / "model"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors = dict(
        line[2:].split(" ", 1) for line in done.stdout.splitlines() if line.startswith("==")
    )
    assert "tf_lowprec" in errors["keras"]
    assert "Op type not registered 'Lowprec>" in errors["saved_model"]


def around(layer):
    return tf.keras.Sequential(
        [tf.keras.Input((3, 6, 4)), tf.keras.layers.TimeDistributed(layer, name="steps")]
    )


WRAPPED = [
    lambda policy: lp.layers.Dense(2, precision=policy),
    lambda policy: lp.layers.Conv1D(2, 3, precision=policy),
    lambda policy: lp.layers.LSTM(2, precision=policy),
    lambda policy: tf.keras.layers.TimeDistributed(lp.layers.Dense(2, precision=policy)),
    lambda policy: tf.keras.Sequential([lp.layers.Dense(2, precision=policy)]),
]
wrapped = pytest.mark.parametrize(
    "make", WRAPPED, ids=["Dense", "Conv1D", "LSTM", "TimeDistributed", "Sequential"]
)


def assert_same_outputs(got, want):
    x = images((2, 3, 6, 4))
    np.testing.assert_array_equal(got.predict(x, verbose=0), want.predict(x, verbose=0))


@wrapped
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_file_keeps_layers_in_time_distributed(make, suffix, tmp_path):
    model = around(make(lp.Policy.fp8(9)))
    model.save(tmp_path / f"model.{suffix}")
    assert_same_outputs(tf.keras.models.load_model(tmp_path / f"model.{suffix}"), model)


@wrapped
def test_clone_model_keeps_layers_in_time_distributed(make):
    model = around(make(lp.Policy.fp8(9)))
    clone = tf.keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same_outputs(clone, model)


def test_a_stock_layer_in_time_distributed_stays_one(tmp_path):
    model = around(tf.keras.layers.Dense(2))
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("steps").layer) is tf.keras.layers.Dense


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_file_keeps_the_weights_and_the_policy(suffix, tmp_path):
    model = small_model()
    model.save(tmp_path / f"model.{suffix}")
    loaded = tf.keras.models.load_model(tmp_path / f"model.{suffix}")
    assert loaded.layers[-1].precision == lp.Policy.fp8(9)
    for got, want in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)
