"""lp.distribute.AdaComp: bin sizes by pattern, its checks, its serialization."""

import json
import re

import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec._keras import deserialize_keras_object, serialize_keras_object

AdaComp = lp.distribute.AdaComp


@pytest.mark.parametrize(
    "name, shape, size",
    [
        ("model/conv2d/kernel", (5, 5, 1, 32), 50),
        ("anything", (3, 3, 3, 8, 8), 50),
        ("conv1d/kernel", (5, 16, 32), 50),
        ("query/kernel", (64, 4, 16), 500),
        ("dense/kernel", (784, 1000), 500),
        ("lstm/recurrent_kernel", (64, 256), 500),
        ("conv2d/bias", (512,), 500),
        ("bias", (256,), 500),
        ("bias", (255,), None),
        ("scale", (), None),
    ],
)
def test_default_bin_size(name, shape, size):
    assert AdaComp().bin_size_for(name, shape) == size


def test_first_pattern_decides():
    settings = AdaComp({"embedding": 1000, "^a/": 7, "kernel": 64}, exclude="/b/")
    assert settings.bin_size_for("a/embedding", (999,)) == 1000
    assert settings.bin_size_for("a/kernel", (999,)) == 7
    assert settings.bin_size_for("c/kernel", (999,)) == 64
    assert settings.bin_size_for("c/other", (999,)) == 500
    assert settings.bin_size_for("a/b/kernel", (999,)) is None
    assert AdaComp(33).bin_size_for("conv", (3, 3, 64, 64)) == 33


def test_min_elements():
    assert AdaComp(min_elements=0).bin_size_for("b", (1,)) == 500
    assert AdaComp(min_elements=10**6).bin_size_for("b", (999, 999)) is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"bin_sizes": 0}, ["bin_sizes = 0", "1..16384"]),
        ({"bin_sizes": 16385}, ["bin_sizes = 16385"]),
        ({"bin_sizes": 2.5}, ["bin_sizes = 2.5"]),
        ({"bin_sizes": True}, ["bin_sizes = True"]),
        ({"bin_sizes": [64, 128]}, ["bin_sizes = [64, 128]", "dict"]),
        ({"bin_sizes": {"conv": -1}}, ["bin_sizes['conv'] = -1"]),
        ({"bin_sizes": {"(": 50}}, ["bin_sizes", "'('", "regular expression"]),
        ({"exclude": ["["]}, ["exclude", "'['"]),
        ({"exclude": 3}, ["exclude = 3"]),
        ({"exclude": [b"bias"]}, ["exclude has b'bias'", "string"]),
        ({"exclude": b"bias"}, ["exclude has b'bias'", "string"]),
        ({"exclude": re.compile(b"bias")}, ["exclude has re.compile(b'bias')", "string"]),
        ({"exclude": re.compile("bias", re.I)}, ["exclude has re.compile('bias'", "flags"]),
        ({"exclude": [None]}, ["exclude has None"]),
        ({"bin_sizes": {b"conv": 64}}, ["bin_sizes has b'conv'", "string"]),
        ({"warmup_steps": -1}, ["warmup_steps = -1"]),
        ({"warmup_steps": 1.5}, ["warmup_steps = 1.5"]),
        ({"min_elements": None}, ["min_elements = None"]),
        ({"encoding": "zip"}, ["encoding = 'zip'", "'plain'", "'entropy'"]),
        ({"soft_threshold": 0.5}, ["soft_threshold = 0.5"]),
        ({"soft_threshold": float("nan")}, ["soft_threshold = nan"]),
        ({"soft_threshold": "2"}, ["soft_threshold = '2'"]),
    ],
)
def test_wrong_argument(arguments, words):
    with pytest.raises(ValueError) as raised:
        AdaComp(**arguments)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    "settings",
    [
        AdaComp(),
        AdaComp(100, ["head", "bias"], 10, "entropy", 1.5, 1),
        AdaComp({"conv": 64, "dense": 1000}),
    ],
)
def test_is_a_value(settings):
    again = deserialize_keras_object(serialize_keras_object(settings))
    assert again == settings
    assert hash(again) == hash(settings)
    assert AdaComp.from_config(settings.get_config()) == settings


def test_compiled_patterns_are_kept_as_strings():
    compiled = AdaComp({re.compile("conv"): 64}, [re.compile("(?i)bias")])
    assert compiled == AdaComp({"conv": 64}, ["(?i)bias"])
    assert AdaComp(exclude=re.compile("bias")) == AdaComp(exclude="bias")
    again = AdaComp.from_config(json.loads(json.dumps(compiled.get_config())))
    assert again == compiled
    assert again.bin_size_for("a/BIAS", (999,)) is None


def test_registered_name():
    assert tf.keras.utils.get_registered_name(AdaComp) == "tf_lowprec>AdaComp"


def test_patterns_that_match_nothing_are_warned_of_once():
    settings = AdaComp(bin_sizes={"conv": 64, "lstm": 100}, exclude=["bias$", "densee"])
    warned = set()
    with pytest.warns(UserWarning) as caught:
        settings.warn_of_unmatched(["conv/kernel", "conv/bias"], warned)
        settings.warn_of_unmatched(["conv/kernel", "dense/bias"], warned)
    assert [str(w.message).split(" matches")[0] for w in caught] == [
        "bin_sizes: 'lstm'",
        "exclude: 'densee'",
    ]
    assert "trained so far: conv/bias, conv/kernel" in str(caught[0].message)
