"""lp.convert: the same model, in low precision; what it leaves is listed."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from compat import needs_keras_3

import tf_lowprec as lp
from tf_lowprec._keras import KERAS_3
from tf_lowprec.analysis.trace import layer_paths
from tf_lowprec.convert import REPLACEMENTS

L = tf.keras.layers
POLICY = lp.Policy.fp8(7, chunk=16)


def batch(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sequential():
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, activation="relu", name="a"),
            L.BatchNormalization(name="bn"),
            L.Flatten(),
            L.Dense(5, name="b"),
        ],
        name="net",
    )


def nested():
    inner = tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(6, name="a")], name="inner")
    x = tf.keras.Input((6,), name="x")
    shared = L.Dense(6, name="shared")
    y = L.Add()([shared(x), inner(shared(x))])
    return tf.keras.Model(x, [L.Dense(2, name="left")(y), L.Dense(3, name="right")(y)])


def wrapped():
    return tf.keras.Sequential(
        [
            tf.keras.Input((5, 3)),
            L.Bidirectional(L.GRU(4, return_sequences=True, name="gru"), name="both"),
            L.TimeDistributed(L.Dense(6, name="dense"), name="steps"),
            L.LSTM(4, name="lstm"),
            L.Dense(2, name="last"),
        ]
    )


MODELS = {"sequential": sequential, "nested": nested, "wrapped": wrapped}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def inputs_of(model):
    return batch(4, *model.inputs[0].shape[1:])


def as_functional(layer, shape, dtype="float32"):
    x = tf.keras.Input(shape, dtype=dtype)
    return tf.keras.Model(x, layer(x))


def layers_of(model):
    return dict(layer_paths(model))


@each_model
def test_in_float32_it_is_the_same_model(make):
    model = make()
    converted = lp.convert(model, lp.Policy.float32())
    x = inputs_of(model)
    for mine, stock in zip(tf.nest.flatten(converted(x)), tf.nest.flatten(model(x)), strict=True):
        np.testing.assert_array_equal(mine, stock)
    assert converted.name == model.name
    assert [w.name for w in converted.weights] == [w.name for w in model.weights]


@each_model
def test_names_weights_and_classes(make):
    model = make()
    converted = lp.convert(model, POLICY)
    before, after = layers_of(model), layers_of(converted)
    assert [path for path in before if "input" not in path] == [
        path for path in after if "input" not in path
    ]
    for path, layer in after.items():
        if path in before and type(before[path]) in REPLACEMENTS:
            assert type(layer) is REPLACEMENTS[type(before[path])]
            assert layer.precision == POLICY
    for mine, stock in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, stock)
    assert lp.unconverted(converted) == ()


def test_it_computes_in_low_precision():
    model = tf.keras.Sequential([tf.keras.Input((300,)), L.Dense(5)])
    converted = lp.convert(model, POLICY)
    x = batch(4, 300)
    want = lp.matmul(x, model.get_weights()[0], POLICY.forward)
    np.testing.assert_array_equal(converted(x), want)


def test_the_models_share_no_weights():
    model = sequential()
    converted = lp.convert(model, POLICY)
    before = [w.copy() for w in model.get_weights()]
    converted.set_weights([w + 1 for w in converted.get_weights()])
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, was)


def test_policies_by_name():
    policies = lp.PolicyMap({"a": lp.Policy.fp8(5), "b": lp.Policy.fp8(9)})
    converted = lp.convert(sequential(), policies)
    assert converted.get_layer("a").precision == lp.Policy.fp8(5)
    assert converted.get_layer("b").precision == lp.Policy.fp8(9)


def test_a_gemm_is_for_all_passes():
    gemm = POLICY.forward
    converted = lp.convert(sequential(), gemm)
    assert converted.get_layer("a").precision == lp.Policy(gemm, gemm, gemm)


@each_model
def test_a_plan_is_followed_and_trains(make):
    tf.keras.utils.set_random_seed(0)
    model = make()
    plan = lp.analysis.plan(model, 4, chunk=8).perturb(1)
    converted = lp.convert(model, plan)
    policies = plan.policies()
    layers = layers_of(converted)
    ours = {p for p, layer in layers.items() if type(layer) in REPLACEMENTS.values()}
    assert {path: layers[path].precision for path in ours} == policies
    losses = ["mse"] * len(model.outputs)
    converted.compile("sgd", losses if len(losses) > 1 else losses[0], run_eagerly=True)
    x = inputs_of(model)
    targets = [np.zeros(y.shape, np.float32) for y in tf.nest.flatten(model(x))]
    before = [w.copy() for w in converted.get_weights()]
    converted.fit(x, targets if len(targets) > 1 else targets[0], verbose=0)
    changed = [np.any(was != now) for was, now in zip(before, converted.get_weights())]
    assert all(changed)


def test_converting_again_replaces_the_precision():
    once = lp.convert(sequential(), POLICY)
    again = lp.convert(once, lp.Policy.fp8(3))
    assert again.get_layer("a").precision == lp.Policy.fp8(3)


def test_a_converted_model_survives_a_file(tmp_path):
    converted = lp.convert(sequential(), POLICY)
    converted.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    x = batch(2, 8, 8, 3)
    np.testing.assert_array_equal(loaded(x), converted(x))
    assert loaded.get_layer("a").precision == POLICY


class Twice(L.Dense):
    def call(self, x):
        return 2 * super().call(x)


def test_what_is_not_converted_is_listed(caplog):
    x = tf.keras.Input((5, 4))
    y = Twice(4, name="twice")(x)
    y = L.SimpleRNN(4, name="simple")(y)
    model = tf.keras.Model(x, L.Dense(2, name="dense")(y), name="net")
    with caplog.at_level(logging.WARNING, "tf_lowprec"):
        converted = lp.convert(model, POLICY)
    assert [entry[:2] for entry in lp.unconverted(converted)][:2] == [
        ("twice", "Twice"),
        ("simple", "SimpleRNN"),
    ]
    assert "net: not converted" in caplog.text
    assert "twice (Twice): a class of its own" in caplog.text
    x = batch(2, 5, 4)
    assert converted(x).shape == (2, 2)


def test_layers_that_a_plan_has_not_keep_their_class():
    model = sequential()
    plan = lp.analysis.plan(model, 4)
    partial = lp.analysis.Plan(plan.model, 4, [s for s in plan.sums if s.layer == "b"])
    converted = lp.convert(model, partial)
    assert type(converted.get_layer("a")) is L.Conv2D
    assert type(converted.get_layer("b")) is lp.layers.Dense


class Subclassed(tf.keras.Model):
    """Layers as attributes, in a list, in a dictionary, and in a model inside."""

    def __init__(self, name="own"):
        super().__init__(name=name)
        self.first = L.Dense(3, name="first")
        self.norm = L.BatchNormalization(name="norm")
        self.blocks = [L.Dense(3, name="block_0"), L.Dense(3, name="block_1")]
        self.heads = {"a": L.Dense(2, name="head")}
        self.inner = tf.keras.Sequential([L.Dense(2, name="deep")], name="inner")

    def call(self, x, training=None):
        x = self.norm(self.first(x), training=training)
        for block in self.blocks:
            x = block(x)
        return self.heads["a"](x) + self.inner(x)

    def get_config(self):
        return {"name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def subclassed():
    model = Subclassed()
    model(batch(2, 3))
    return model


@pytest.mark.skipif(not KERAS_3, reason="Keras 2: see test_keras_2_refuses_subclassed_models")
def test_subclassed_models():
    model = subclassed()
    converted = lp.convert(model, POLICY)
    assert lp.unconverted(converted) == ()
    assert type(converted) is Subclassed
    assert [w.name for w in converted.weights] == [w.name for w in model.weights]
    for mine, stock in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, stock)
    layers = layers_of(converted)
    names = ("first", "block_0", "block_1", "head", "inner/deep")
    assert {path: layers[path].precision for path in names} == dict.fromkeys(names, POLICY)
    assert type(model.first) is L.Dense
    converted.compile("sgd", "mse", run_eagerly=True)
    before = converted.get_weights()
    converted.fit(batch(4, 3), batch(4, 2), verbose=0)
    assert all(np.any(was != now) for was, now in zip(before, converted.get_weights()))


@pytest.mark.skipif(not KERAS_3, reason="Keras 2: see test_keras_2_refuses_subclassed_models")
def test_subclassed_models_in_float32():
    model = subclassed()
    converted = lp.convert(model, lp.Policy.float32())
    np.testing.assert_array_equal(converted(batch(5, 3)), model(batch(5, 3)))


@tf.keras.utils.register_keras_serializable("test_convert")
class Unnamed(tf.keras.Model):
    """Its layers have the names that Keras gives, other ones in a copy."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = L.Dense(64, activation="relu"), L.Dense(3)

    def call(self, x):
        return self.down(self.up(x))


def unnamed_alone():
    model = Unnamed(name="alone")
    model(batch(2, 3))
    return model


def unnamed_inside():
    x = tf.keras.Input((3,))
    y = Unnamed(name="inside")(Unnamed(name="first")(x))
    return tf.keras.Model(x, L.Dense(2)(y))


@pytest.mark.skipif(not KERAS_3, reason="Keras 2: see test_keras_2_refuses_subclassed_models")
@pytest.mark.parametrize("make", [unnamed_alone, unnamed_inside])
def test_a_plan_finds_layers_without_names(make):
    model = make()
    plan = lp.analysis.plan(model, 16, input_shape=(3,))
    converted = lp.convert(model, plan)
    assert lp.unconverted(converted) == ()
    layers = layers_of(converted)
    assert {path: layers[path].precision for path in plan.layers} == plan.policies()
    np.testing.assert_array_equal(converted.get_weights()[0], model.get_weights()[0])


@tf.keras.utils.register_keras_serializable("test_convert")
class Block(L.Layer):
    """A transformer's, whose layers are built when it is called."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = L.MultiHeadAttention(2, width // 2, name="attention")
        self.norms = [L.LayerNormalization(name="norm_0"), L.LayerNormalization(name="norm_1")]
        self.up = L.Dense(2 * width, activation="relu", name="up")
        self.down = L.Dense(width, name="down")

    def call(self, x):
        y = self.norms[0](x)
        x = x + self.attention(y, y)
        return x + self.down(self.up(self.norms[1](x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def transformer():
    x = tf.keras.Input((6,), dtype="int32")
    y = L.Embedding(10, 8, name="embedding")(x)
    y = Block(8, name="block_1")(Block(8, name="block_0")(y))
    return tf.keras.Model(x, L.Dense(10, name="logits")(y), name="transformer")


@pytest.mark.skipif(not KERAS_3, reason="Keras 2: see test_keras_2_refuses_subclassed_models")
def test_a_transformer():
    model = transformer()
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6) % 10
    same = lp.convert(model, lp.Policy.float32())
    np.testing.assert_array_equal(same(tokens), model(tokens))
    converted = lp.convert(model, POLICY)
    assert lp.unconverted(converted) == ()
    assert layers_of(converted)["block_1/attention"].precision == POLICY
    assert np.any(converted(tokens).numpy() != model(tokens).numpy())
    converted.compile("sgd", "mse", run_eagerly=True)
    before = converted.get_weights()
    converted.fit(tokens, batch(2, 6, 10), verbose=0)
    changed = [np.any(was != now) for was, now in zip(before, converted.get_weights())]
    assert np.mean(changed) > 0.9  # attention's key biases have no gradient


@pytest.mark.skipif(KERAS_3, reason="Keras 3 converts them")
def test_keras_2_refuses_subclassed_models():
    with pytest.raises(ValueError, match="of class Subclassed cannot be copied: .* needs Keras 3"):
        lp.convert(subclassed(), POLICY)


def test_a_single_layer():
    layer = L.Dense(3)
    layer(batch(2, 4))
    converted = lp.convert(layer, POLICY)
    want = lp.matmul(batch(2, 4), layer.get_weights()[0], POLICY.forward)
    np.testing.assert_array_equal(converted(batch(2, 4)), want)


class NoConfig(tf.keras.Model):
    def __init__(self, layer):
        super().__init__(name="bare")
        self.dense = layer

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        raise NotImplementedError("NoConfig")


def no_config():
    model = NoConfig(L.Dense(2))
    model(batch(2, 3))
    return model


def test_a_python_lambda_keeps_its_function():
    scale = tf.constant(3.0)
    double = L.Lambda(lambda x, n: tf.nn.relu(x) * scale * n, arguments={"n": 2.0}, name="double")
    model = tf.keras.Sequential([tf.keras.Input((4,)), double])
    np.testing.assert_array_equal(lp.convert(model, POLICY)(batch(2, 4)), model(batch(2, 4)))


def test_the_model_comes_back_uncompiled():
    model = sequential()
    model.compile("sgd", lambda y, z: tf.reduce_mean((y - z) ** 2))  # none that a config can hold
    assert not getattr(lp.convert(model, POLICY), "optimizer", None)
    assert model.optimizer is not None


@pytest.mark.parametrize("network", ["MobileNetV2", "EfficientNetB0", "ResNet50"])
def test_applications(network):
    """Their outputs in float32 exactly; every layer that multiplies is ours."""
    tf.keras.backend.clear_session()
    make = getattr(tf.keras.applications, network)
    model = make(weights=None, input_shape=(32, 32, 3), classes=3)
    converted = lp.convert(model, lp.Policy.float32())
    assert lp.unconverted(converted) == ()
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        converted.predict_on_batch(images), model.predict_on_batch(images)
    )


def test_mobilenet_trains_a_step_in_eight_bits():
    make = tf.keras.applications.MobileNetV2
    model = make(weights=None, input_shape=(32, 32, 3), classes=3, alpha=0.35)
    converted = lp.convert(model, lp.Policy.fp8(9, scaling="amax"))
    converted.compile("sgd", "sparse_categorical_crossentropy")
    before = converted.get_weights()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    converted.train_on_batch(images, np.array([0, 2]))
    after = converted.get_weights()
    assert all(np.all(np.isfinite(w)) for w in after)
    assert np.mean([np.any(was != now) for was, now in zip(before, after)]) > 0.9


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: lp.convert(no_config(), POLICY), "'bare' of class NoConfig cannot be copied"),
        (lambda: lp.convert(tf.keras.Sequential([L.Dense(2)]), POLICY), "is not built"),
        (lambda: lp.convert(L.Dense(2), POLICY), "is not built"),
        (lambda: lp.convert("net", POLICY), "must be a tf.keras.Model"),
        (lambda: lp.convert(sequential(), "fp8"), "precision = 'fp8' must be"),
        (
            lambda: lp.convert(nested(), lp.analysis.plan(sequential(), 4)),
            "the plan of 'net' has layers that .* lacks: a, b",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


REFUSED = {
    "recurrent_dropout = 0.3 must be 0": (L.LSTM(2, recurrent_dropout=0.3, name="odd"), (5, 4)),
    "data_format = 'channels_first' must be 'channels_last'": (
        L.Conv2D(2, 3, data_format="channels_first", name="odd"),
        (3, 5, 5),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_layer_cannot_do_names_the_layer_and_the_fix(message):
    layer, shape = REFUSED[message]
    with pytest.raises(ValueError, match=f"layer 'odd': {message} .* by a PolicyMap"):
        lp.convert(as_functional(layer, shape), POLICY)


@pytest.mark.parametrize("message", REFUSED)
def test_a_policy_map_leaves_out_what_a_layer_cannot_do(message):
    layer, shape = REFUSED[message]
    policies = lp.PolicyMap({"odd": lp.Policy.float32()}, default=POLICY)
    assert lp.unconverted(lp.convert(as_functional(layer, shape), policies)) == ()


@needs_keras_3
def test_layers_with_lora_keep_float32():
    model = tf.keras.Sequential([tf.keras.Input((5,)), tf.keras.layers.Dense(4, name="tuned")])
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="layer 'tuned' has LoRA"):
        lp.convert(model, POLICY)
    policies = lp.PolicyMap({"tuned": lp.Policy.float32()}, default=POLICY)
    x = np.ones((2, 5), np.float32)
    np.testing.assert_array_equal(lp.convert(model, policies)(x), model(x))
