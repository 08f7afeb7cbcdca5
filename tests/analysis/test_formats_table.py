"""`tf-lowprec inspect`: formats, bits and sizes of a model's layers."""

import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec import cli
from tf_lowprec.analysis.formats_table import layer_formats


def model():
    fixed = lp.Policy.fixed_point(lp.FixedPointFormat(2, 10))
    return tf.keras.Sequential(
        [
            tf.keras.Input((8,)),
            lp.layers.Dense(4, precision=fixed, name="fixed"),
            tf.keras.layers.BatchNormalization(name="norm"),
            tf.keras.layers.ReLU(),
            lp.layers.Dense(3, precision=lp.Policy.fp8((9, 8, 7), chunk=64), name="fp8"),
            tf.keras.layers.Dense(2, name="stock"),
        ],
        name="net",
    )


def test_layer_formats():
    rows = {row.layer: row for row in layer_formats(model())}
    assert list(rows) == ["fixed", "norm", "fp8", "stock"]
    assert (rows["fixed"].parameters, rows["fixed"].bits, rows["fixed"].bytes) == (36, 12, 54)
    assert (rows["fp8"].parameters, rows["fp8"].bits, rows["fp8"].bytes) == (15, 32, 60)
    assert rows["stock"].policy is None


def test_inspect(tmp_path, capsys):
    path = tmp_path / "model.keras"
    model().save(path)
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "net: 2 of 4 layers in low precision" in out
    assert "(1,5,2), sum (1,6,9)/64" in out and "(1,5,2), sum (1,6,7)/64" in out
    assert "<2,10>, sum wide, to <2,10>" in out
    assert "float32" in [line for line in out.splitlines() if "stock" in line][0]


def test_inspect_needs_layers(tmp_path, capsys):
    assert cli.main(["inspect", str(tmp_path)]) == 1
    assert "is a folder: inspect needs layers" in capsys.readouterr().err
