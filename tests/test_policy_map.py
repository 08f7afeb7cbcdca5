"""PolicyMap: which policy a name gets, its checks, and layers made with it."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec._keras import deserialize_keras_object, serialize_keras_object

FP8 = lp.Policy.fp8(9)
Q16 = lp.Policy.fixed_point(lp.FixedPointFormat(2, 14))
GEMM = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2)


@pytest.mark.parametrize(
    "name, policy",
    [
        ("stem_conv", Q16),
        ("stem", Q16),
        ("my_stem", FP8),
        ("Stem", FP8),
        ("block1_conv", lp.Policy(GEMM, GEMM, GEMM)),
        ("block3_conv", FP8),
        ("block12", FP8),
    ],
)
def test_first_pattern_that_fits_the_whole_name(name, policy):
    policies = lp.PolicyMap({"stem*": Q16, "block[12]_*": GEMM, "*": FP8, "block3*": Q16})
    assert policies.for_layer(name) == policy


def test_default_is_float32_or_what_is_given():
    assert lp.PolicyMap({"conv*": FP8}).for_layer("dense") == lp.Policy.float32()
    assert lp.PolicyMap({"conv*": FP8}, default=Q16).for_layer("dense") == Q16
    assert lp.PolicyMap({}, GEMM).for_layer("dense") == lp.Policy(GEMM, GEMM, GEMM)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: lp.PolicyMap({"conv*": "fp8"}), r"patterns\['conv\*'\] = 'fp8'"),
        (lambda: lp.PolicyMap([("conv*", None)]), r"patterns\['conv\*'\] = None"),
        (lambda: lp.PolicyMap({1: FP8}), "1 must be a string"),
        (lambda: lp.PolicyMap([("conv*", FP8, 3)]), "patterns = .* must be a dict, or pairs"),
        (lambda: lp.PolicyMap(FP8), "patterns = Policy"),
        (lambda: lp.PolicyMap(None), "patterns = None"),
        (lambda: lp.PolicyMap("conv*"), r"patterns = 'conv\*'"),
        (lambda: lp.PolicyMap({}, default=8), "default = 8"),
    ],
)
def test_wrong_argument_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_is_a_value():
    policies = lp.PolicyMap({"a*": FP8, "b": Q16}, GEMM)
    same = lp.PolicyMap([("a*", FP8), ("b", Q16)], lp.Policy(GEMM, GEMM, GEMM))
    others = [
        lp.PolicyMap([("b", Q16), ("a*", FP8)], GEMM),  # the order counts
        lp.PolicyMap({"a*": FP8, "b": Q16}),
        lp.PolicyMap({"a*": FP8}, GEMM),
    ]
    assert policies == same and hash(policies) == hash(same)
    assert len({policies, same, *others}) == 4
    assert policies != {"a*": FP8, "b": Q16}
    assert "a*" in repr(policies) and "mantissa_bits=9" in repr(policies)


def test_survives_serialization():
    policies = lp.PolicyMap({"a*": FP8, "b": Q16}, GEMM)
    assert deserialize_keras_object(serialize_keras_object(policies)) == policies


def network():
    policies = lp.PolicyMap({"stem*": Q16, "head": lp.Policy.float32(), "*": FP8})
    return tf.keras.Sequential(
        [
            tf.keras.Input((6, 6, 1)),
            lp.layers.Conv2D(2, 3, name="stem_conv", precision=policies),
            lp.layers.DepthwiseConv2D(3, name="depthwise", precision=policies),
            tf.keras.layers.Flatten(),
            lp.layers.Dense(3, name="head", precision=policies),
        ]
    )


def precisions(model):
    return [layer.precision for layer in model.layers if hasattr(layer, "precision")]


def test_layers_take_the_policy_of_their_names_and_keep_it(tmp_path):
    model = network()
    assert precisions(model) == [Q16, FP8, lp.Policy.float32()]
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert precisions(loaded) == precisions(model)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))


def test_names_that_keras_makes_up_are_looked_up_too():
    tf.keras.backend.clear_session()
    policies = lp.PolicyMap({"dense_1": FP8, "gru*": Q16})
    made = [lp.layers.Dense(2, precision=policies) for _ in range(2)]
    assert [layer.precision for layer in made] == [lp.Policy.float32(), FP8]
    assert lp.layers.GRU(2, precision=policies).cell.precision == Q16


def test_attention_hands_its_policy_to_its_projections():
    policies = lp.PolicyMap({"attend": FP8, "query": Q16})
    layer = lp.layers.MultiHeadAttention(2, 3, name="attend", precision=policies)
    layer(np.zeros((1, 2, 4), np.float32), np.zeros((1, 2, 4), np.float32))
    assert layer._query_dense.precision == layer._output_dense.precision == FP8
