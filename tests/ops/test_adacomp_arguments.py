"""Wrong arguments of lp.adacomp_encode and decode; packets that are refused."""

import adacomp_oracle as oracle
import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.ops._library import ops

WRONG = (ValueError, tf.errors.InvalidArgumentError)
X = np.arange(1, 101, dtype=np.float32)


@pytest.fixture(params=["eager", "graph"])
def call(request):
    return {"eager": lambda f: f(), "graph": lambda f: tf.function(f, autograph=False)()}[
        request.param
    ]


def refused(call, function, *words):
    with pytest.raises(WRONG) as raised:
        call(function)
    message = str(raised.value)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("bad", [0, -1, 16385, 2.0, True, None, "50"])
def test_bin_size(call, bad):
    refused(call, lambda: lp.adacomp_encode(X, X, bad), f"bin_size = {bad!r}", "1..16384")


@pytest.mark.parametrize("bad", ["zip", "", None, 1])
def test_encoding(call, bad):
    refused(call, lambda: lp.adacomp_encode(X, X, 50, bad), f"encoding = {bad!r}", "'plain'")


@pytest.mark.parametrize("bad", [0.99, -2, float("nan"), float("inf"), "2", None])
def test_soft_threshold(call, bad):
    refused(
        call, lambda: lp.adacomp_encode(X, X, 50, "plain", bad), f"soft_threshold = {bad!r}", "1.."
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
@pytest.mark.parametrize("argument", [0, 1])
def test_dtype(call, dtype, argument):
    arguments = [X, X]
    arguments[argument] = X.astype(dtype)
    name = ("gradient", "residue")[argument]
    refused(call, lambda: lp.adacomp_encode(*arguments, 50), name, np.dtype(dtype).name, "float32")


@pytest.mark.parametrize("shape", [(99,), (100, 1), (10, 10)])
def test_residue_of_another_shape(call, shape):
    residue = np.zeros(shape, np.float32)
    refused(call, lambda: lp.adacomp_encode(X, residue, 50), "residue", str(shape[0]), "100")


def test_residue_whose_shape_shows_at_run_time_only():
    function = tf.function(
        lambda g, r: lp.adacomp_encode(g, r, 50),
        input_signature=[tf.TensorSpec(None, tf.float32)] * 2,
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"residue must .*\[100\].*\[99\]"):
        function(X, X[:99])


@pytest.mark.parametrize(
    "attributes, words",
    [
        ({"bin_size": 0}, "bin_size = 0"),
        ({"bin_size": 16385}, "bin_size = 16385"),
        ({"bin_size": 50, "soft_threshold": 0.5}, "soft_threshold = 0.5"),
        ({"bin_size": 50, "encoding": "zip"}, "zip"),
    ],
)
def test_ops_own_checks(attributes, words):
    # A graph made by hand gets here without Python's checks.
    with pytest.raises(WRONG, match=words):
        ops.lowprec_ada_comp_encode(gradient=X, residue=X, **attributes)


# Packets.


def packet(encoding="plain"):
    return lp.adacomp_encode(X, X, 50, encoding)[0]


def test_no_packet(call):
    refused(call, lambda: lp.adacomp_decode([], 100), "packets = []")


@pytest.mark.parametrize("bad", [np.zeros(9, np.int64), np.zeros(9, np.float32), [[1, 2]], 5])
def test_what_is_no_packet(call, bad):
    refused(
        call, lambda: lp.adacomp_decode(bad if isinstance(bad, int) else [bad], 9), "packets[0]"
    )


def test_number_of_elements(call):
    good = packet()
    refused(call, lambda: lp.adacomp_decode(good, -1), "num_elements", "-1")
    refused(call, lambda: lp.adacomp_decode(good, 99), "packets[0]", "99", "number of elements")
    for wrong in ([100], 100.9, "100", None, True, tf.constant(100.0)):
        refused(call, lambda n=wrong: lp.adacomp_decode(good, n), "num_elements")
    refused(call, lambda: lp.adacomp_decode(good, tf.constant([100])))
    for right in (np.int32(100), np.array(100), tf.constant(100, tf.int32)):
        assert lp.adacomp_decode(good, right).shape == [100]


@pytest.mark.parametrize("encoding", ["plain", "entropy"])
def test_truncated(call, encoding):
    whole = packet(encoding)
    for size in (0, 4, 5, int(whole.shape[0]) - 1):
        refused(call, lambda n=size: lp.adacomp_decode(whole[:n], 100), "packets[0]", f"({size} ")


def test_message_says_which_packet_and_why(call):
    bad = packet().numpy()
    bad[-1] ^= 1
    refused(call, lambda: lp.adacomp_decode([packet(), bad], 100), "packets[1]", "checksum")


@pytest.mark.parametrize("encoding", ["plain", "entropy"])
def test_corrupt_codes_behind_a_good_checksum(call, encoding):
    words = packet(encoding).numpy()
    words[-1] = -1 if encoding == "plain" else 0
    refused(call, lambda: lp.adacomp_decode(oracle.sealed(words), 100), "packets[0]")


def test_sound_packet_after_a_refused_one():
    bad = packet().numpy()
    bad[0] ^= 1 << 30
    with pytest.raises(tf.errors.InvalidArgumentError, match="magic"):
        lp.adacomp_decode(bad, 100)
    assert np.any(lp.adacomp_decode(packet(), 100) != 0)


@pytest.mark.parametrize("bad", [2**63, 2**64, np.uint64(2**63)], ids=str)
def test_number_of_elements_beyond_64_bits(call, bad):
    good = packet()
    refused(call, lambda: lp.adacomp_decode(good, bad), f"num_elements = {bad!r}", "0..2^63-1")


SPARSE = tf.sparse.from_dense([1.0])


@pytest.mark.parametrize("bad, fix", [(None, "NoneType"), (SPARSE, "tf.sparse.to_dense")])
@pytest.mark.parametrize("name", ["gradient", "residue", "packets[0]"])
def test_what_is_no_tensor(call, name, bad, fix):
    calls = {
        "gradient": lambda: lp.adacomp_encode(bad, X, 50),
        "residue": lambda: lp.adacomp_encode(X, bad, 50),
        "packets[0]": lambda: lp.adacomp_decode(bad, 100),
    }
    refused(call, calls[name], f"{name} is ", fix)
