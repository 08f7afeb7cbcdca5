"""ResNets and AlexNet: weights and multiply-accumulates as published, shapes, precision."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from compat import native

import tf_lowprec as lp
from tf_lowprec.analysis.trace import trace

models = lp.models

# Trainable weights and multiply-accumulates of an image, to the digits that are published:
# He et al. (2015), table 6 (0.27 M, 0.46 M weights) and table 1 (1.8 G for 18 layers); 11,689,512
# and 1.814 G are what common implementations of option B count; 60,965,224 and 724 M are AlexNet's
# in groups of two. ResNet-8 has no published count: by hand 27*16 + 2*144*16 + 144*32 + 288*32 +
# 288*64 + 576*64 + 650 weights of products and 2 (3*16 + 2*32 + 2*64) of normalization.
COUNTS = {
    "resnet8": (models.resnet8, 75_290, 12.2e6),
    "resnet20": (models.resnet20, 269_722, 40.6e6),
    "resnet32": (models.resnet32, 464_154, 68.9e6),
    "resnet18": (models.resnet18, 11_689_512, 1.814e9),
    "alexnet": (models.alexnet, 60_965_224, 724e6),
}


@functools.cache
def built(name):
    return COUNTS[name][0]()


@pytest.mark.parametrize("name", COUNTS)
def test_weights_and_multiply_accumulates_are_the_published(name):
    _, weights, macs = COUNTS[name]
    model = built(name)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == weights
    (image,) = model.inputs
    found = trace(model, tf.TensorSpec((1, *image.shape[1:])))
    assert sum(p.macs for c in found.calls for p in c.products) == pytest.approx(macs, rel=5e-3)


def test_alexnets_first_convolution_gives_55_by_55():
    model = built("alexnet")
    assert model.get_layer("conv1").compute_output_shape((None, 227, 227, 3))[1:3] == (55, 55)
    assert model.get_layer("flatten").compute_output_shape((None, 6, 6, 256))[1] == 9216


SMALL = {
    "resnet8": lambda precision: models.resnet8(precision, seed=1),
    "resnet18": lambda precision: models.resnet18(precision, 10, 1, (32, 32, 3)),
    "alexnet": lambda precision: models.alexnet(precision, 10, 1, (67, 67, 3)),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_has_a_gradient(name):
    tf.keras.utils.set_random_seed(0)
    model = SMALL[name](lp.Policy.fp8(9))
    assert lp.unconverted(model) == ()
    x = np.random.default_rng(0).normal(size=(2, *model.inputs[0].shape[1:])).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = 1000 * tf.reduce_mean(model(x, training=True)[:, 0] ** 2)
    variables = [native(v) for v in model.trainable_variables]
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        assert np.any(gradient), variable.name


def test_seeds_repeat_and_layers_differ():
    once, again = (models.resnet8(seed=5).get_weights() for _ in range(2))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)
    model = models.resnet8(seed=5)
    same = [model.get_layer(f"stage1_block1_conv{i}").get_weights()[0] for i in (1, 2)]
    assert np.any(same[0] != same[1])


def test_a_policy_map_reaches_the_layers():
    policies = lp.PolicyMap({"conv1": lp.Policy.fp8(5), "stage*": lp.Policy.fp8(7)})
    model = models.resnet8(policies)
    assert model.get_layer("conv1").precision == lp.Policy.fp8(5)
    assert model.get_layer("stage3_block1_conv2").precision == lp.Policy.fp8(7)
    assert model.get_layer("dense").precision == lp.Policy.float32()


def test_a_plan_of_a_network_builds_it():
    plan = lp.analysis.plan(models.resnet8(), 128)
    model = models.resnet8(plan.policy_map())
    for path, policy in plan.policies().items():
        assert model.get_layer(path).precision == policy


def test_a_saved_resnet_loads(tmp_path):
    model = models.resnet8(lp.Policy.fp8(9))
    model.save(tmp_path / "resnet8.keras")
    loaded = tf.keras.models.load_model(tmp_path / "resnet8.keras")
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("depth", [2, 9, 20.0, True])
def test_depths_that_are_not_of_the_family_are_refused(depth):
    with pytest.raises(ValueError, match="must be 6 k"):
        models.resnet_cifar(depth)
