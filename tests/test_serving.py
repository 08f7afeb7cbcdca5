"""examples/serving: a C++ program without Python gives the model's bits."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.ops._library import _LIBRARY

SOURCE = pathlib.Path(__file__).parents[1] / "examples/serving"


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    out = tmp_path_factory.mktemp("serving")
    command = ["make", "-s", "-C", SOURCE, f"OUT={out}", f"PYTHON={sys.executable}"]
    subprocess.run(command, check=True)

    def run(*arguments, values=b""):
        command = [out / "predict", *map(str, arguments)]
        return subprocess.run(command, input=values, capture_output=True)

    return run


def model():
    policy = lp.Policy.fp8(7, chunk=16)
    layers = [lp.layers.Dense(8, "relu", precision=policy), lp.layers.Dense(3, precision=policy)]
    return tf.keras.Sequential([tf.keras.Input((20,)), *layers])


@pytest.mark.parametrize("portable", [False, True])
def test_a_served_prediction(predict, tmp_path, portable):
    net = model()
    path = lp.export(net, tmp_path / "model", portable)
    x = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    done = predict("-" if portable else _LIBRARY, path, "5,20", values=x.tobytes())
    assert done.returncode == 0, done.stderr.decode()
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(5, 3), net(x))


def test_what_is_wrong_is_said(predict, tmp_path):
    path = lp.export(model(), tmp_path / "model")
    for arguments, values, message in (
        (("-", path, "1,20"), b"", b"Op type not registered"),
        ((_LIBRARY, path, "1,20"), b"1234", b"must hold 80 bytes"),
        ((_LIBRARY, path, "1,x"), b"", b"SHAPE = '1,x' must be sizes"),
        ((_LIBRARY, tmp_path / "none", "1,20"), b"", b"cannot load the model"),
        ((), b"", b"usage"),
    ):
        done = predict(*arguments, values=values)
        assert done.returncode == 1 and message in done.stderr, done.stderr.decode()
