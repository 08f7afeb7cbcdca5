"""tensorflow-addons' optimizers and wrappers with our layers and LowPrecision."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp

tfa = pytest.importorskip("tensorflow_addons", reason="the addons leg has it")

Q16 = lp.FixedPointFormat(2, 14)
POLICY = lp.Policy.fixed_point(Q16, activations=lp.FixedPointFormat(6, 10))

OPTIMIZERS = {
    "LAMB": lambda: tfa.optimizers.LAMB(0.02),
    "AdamW": lambda: tfa.optimizers.AdamW(weight_decay=1e-3, learning_rate=0.02),
    "SGDW": lambda: tfa.optimizers.SGDW(weight_decay=1e-3, learning_rate=0.2, momentum=0.9),
    "RectifiedAdam": lambda: tfa.optimizers.RectifiedAdam(0.05),
    "Lookahead": lambda: tfa.optimizers.Lookahead(
        tf.keras.optimizers.legacy.SGD(0.5, momentum=0.9), sync_period=3
    ),
    "SWA": lambda: tfa.optimizers.SWA(
        tf.keras.optimizers.legacy.SGD(0.3, momentum=0.9), start_averaging=2, average_period=3
    ),
    "legacy SGD": lambda: tf.keras.optimizers.legacy.SGD(0.3, momentum=0.9),
}


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    return x, (x[:, :2] > 0).astype(np.float32)


def small_model(optimizer, wrap=lambda layer: layer):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8,)),
            wrap(lp.layers.Dense(16, activation="relu", precision=POLICY, seed=1)),
            lp.layers.Dense(2, precision=POLICY, seed=2),
        ]
    )
    model.compile(optimizer, tf.keras.losses.BinaryCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("strategy", ["one device", "two replicas"])
def test_optimizer_learns_on_the_grid(make, strategy, two_replicas):
    chosen = two_replicas if strategy == "two replicas" else tf.distribute.get_strategy()
    x, y = data()
    with chosen.scope():
        model = small_model(lp.optimizers.LowPrecision(make(), Q16, seed=3))
    history = model.fit(x, y, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    for weights in model.get_weights():
        np.testing.assert_array_equal(weights, lp.quantize(weights, Q16))
    if strategy == "two replicas":
        for variable in model.trainable_variables:
            first, second = (v.numpy() for v in two_replicas.experimental_local_results(variable))
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_config_round_trip(make):
    optimizer = lp.optimizers.LowPrecision(make(), Q16, "nearest_even", slot_format=Q16, seed=3)
    again = lp.optimizers.LowPrecision.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert type(again.inner_optimizer) is type(optimizer.inner_optimizer)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_checkpoint_goes_on_with_the_same_bits(make, tmp_path):
    x, y = data()

    def trained(epochs):
        model = small_model(lp.optimizers.LowPrecision(make(), Q16, seed=3))
        for epoch in range(epochs):
            model.fit(x, y, batch_size=32, epochs=1, verbose=0, shuffle=False)
            if epoch == 0:
                tf.train.Checkpoint(model).write(str(tmp_path / "first"))
        return model

    straight = trained(2)
    resumed = trained(1)
    for weight in resumed.trainable_variables:
        weight.assign(tf.zeros_like(weight))
    tf.train.Checkpoint(resumed).read(str(tmp_path / "first")).expect_partial()
    resumed.fit(x, y, batch_size=32, epochs=1, verbose=0, shuffle=False)
    for got, want in zip(resumed.get_weights(), straight.get_weights()):
        np.testing.assert_array_equal(got, want)


def test_weight_normalization_wraps_our_layer():
    x, y = data()

    def wrap(layer):
        return tfa.layers.WeightNormalization(layer, data_init=False)

    model = small_model(tf.keras.optimizers.Adam(0.02), wrap)
    history = model.fit(x, y, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    outputs = tf.keras.Model(model.inputs, model.layers[0].output)(x)
    np.testing.assert_array_equal(outputs, lp.quantize(outputs, lp.FixedPointFormat(6, 10)))


def test_swa_averages_can_be_brought_back_to_the_grid():
    x, y = data()
    inner = OPTIMIZERS["SWA"]()
    model = small_model(lp.optimizers.LowPrecision(inner, Q16, seed=3))
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    inner.assign_average_vars(model.trainable_variables)
    averages = model.get_weights()
    assert any(np.any(w != lp.quantize(w, Q16)) for w in averages)
    model.set_weights([lp.quantize(w, Q16) for w in averages])
    assert np.all(np.isfinite(model.predict(x, verbose=0)))
