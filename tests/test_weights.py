"""Weights as integers, there and back; damaged or mismatched files change nothing."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp

Q16 = lp.FixedPointFormat(2, 14)
Q8 = lp.FixedPointFormat(1, 7)
E4M3 = lp.FP8_E4M3FN


def model(dense=Q16, name="net"):
    """A convolution, BatchNorm, a nested model and a stock layer; weights off their initial 0."""
    tf.keras.utils.set_random_seed(1)
    float8 = lp.Policy(forward=lp.Gemm(E4M3, E4M3), weights=E4M3)
    inner = tf.keras.Sequential(
        [
            tf.keras.Input((4,)),
            lp.layers.Dense(3, precision=lp.Policy.fixed_point(dense), name="dense"),
        ],
        name="inner",
    )
    return tf.keras.Sequential(
        [
            tf.keras.Input((6, 6, 1)),
            lp.layers.Conv2D(4, 3, precision=float8, bias_initializer="ones", name="conv"),
            tf.keras.layers.BatchNormalization(name="norm"),
            tf.keras.layers.GlobalAveragePooling2D(),
            inner,
            tf.keras.layers.Dense(2, name="stock"),
        ],
        name=name,
    )


def zeroed():
    other = model()
    other.set_weights([np.zeros_like(w) for w in other.get_weights()])
    return other


def test_round_trip_restores_every_weight(tmp_path):
    source, target = model(), zeroed()
    lp.export_weights(source, tmp_path / "w")
    lp.import_weights(target, tmp_path / "w")
    for got, want in zip(target.get_weights(), source.get_weights()):
        np.testing.assert_array_equal(got, want)


def test_files_hold_integers_and_their_formats(tmp_path):
    source = model()
    npz, index = lp.export_weights(source, tmp_path / "w.npz")
    arrays, manifest = np.load(npz), json.loads(index.read_text())["weights"]
    assert set(arrays) == set(manifest)
    kernel = source.get_layer("inner").layers[-1].get_weights()[0]
    key = "inner/dense/kernel"
    np.testing.assert_array_equal(arrays[key] * 2.0**-14, kernel)
    assert manifest[key] == {
        "format": "fixed<2,14>",
        "bits": 16,
        "shape": [4, 3],
        "dtype": "int16",
    }
    assert arrays["conv/kernel"].dtype == np.int8
    assert manifest["stock/kernel"]["format"] is None
    assert manifest["norm/moving_mean"]["dtype"] == "float32"


def test_weight_off_its_grid_is_refused_and_nothing_is_written(tmp_path):
    source = model()
    conv = source.get_layer("conv")
    conv.set_weights([np.full_like(w, 0.3) for w in conv.get_weights()])
    message = r"^conv/kernel\[0\] = 0.3.* not on the grid of format '.*'; .*lp.quantize\(weight"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        lp.export_weights(source, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def damage_npz(npz, index):
    npz.write_bytes(npz.read_bytes()[: npz.stat().st_size // 2])


def damage_json(npz, index):
    index.write_text(index.read_text()[:-40])


def other_version(npz, index):
    index.write_text(json.dumps({**json.loads(index.read_text()), "tf_lowprec_weights": 9}))


def _edit(npz, change):
    arrays = dict(np.load(npz))
    change(arrays)
    np.savez(npz, **arrays)


def missing_array(npz, index):
    _edit(npz, lambda arrays: arrays.pop("stock/kernel"))


def other_shape(npz, index):
    _edit(npz, lambda arrays: arrays.update({"stock/bias": np.zeros(3, np.float32)}))


def other_dtype(npz, index):
    _edit(npz, lambda a: a.update({"conv/kernel": a["conv/kernel"].astype(np.int32)}))


def wrong_list(npz, index):
    index.write_text("[]")


DAMAGE = {
    damage_npz: "damaged",
    damage_json: "no list of exported weights",
    wrong_list: "no list of exported weights",
    other_version: "version 9",
    missing_array: "stock/kernel",
    other_shape: "stock/bias is stored with shape",
    other_dtype: "conv/kernel is stored as int32",
}


@pytest.mark.parametrize("damage, message", DAMAGE.items(), ids=[d.__name__ for d in DAMAGE])
def test_damaged_files_are_refused_and_nothing_is_loaded(tmp_path, damage, message):
    damage(*lp.export_weights(model(), tmp_path / "w"))
    target = zeroed()
    with pytest.raises(ValueError, match=message):
        lp.import_weights(target, tmp_path / "w")
    assert not any(np.any(w) for w in target.get_weights())


def test_other_format_is_refused(tmp_path):
    lp.export_weights(model(), tmp_path / "w")
    target = model(dense=Q8)
    before = target.get_weights()
    with pytest.raises(ValueError, match="inner/dense/.* format fixed<2,14>"):
        lp.import_weights(target, tmp_path / "w")
    for got, want in zip(target.get_weights(), before):
        np.testing.assert_array_equal(got, want)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="w.json"):
        lp.import_weights(model(), tmp_path / "w")


def test_model_without_weights_is_refused(tmp_path):
    empty = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Flatten()])
    with pytest.raises(ValueError, match="no weights"):
        lp.export_weights(empty, tmp_path / "w")
