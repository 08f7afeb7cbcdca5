"""Area and energy of a plan's units: taken from the table, summed, compared with float32."""

import json

import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec import cli
from tf_lowprec.analysis.hardware import FLOAT32, unit_cost

L = tf.keras.layers


def model():
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 4)),
            L.Conv2D(16, 3, name="conv"),
            L.Flatten(),
            L.Dense(20, name="hidden"),
            L.Dense(10, name="last"),
        ]
    )


@pytest.fixture(scope="module")
def plan():
    return lp.analysis.plan(model(), 32)


def test_work_of_each_pass(plan):
    work = {(s.layer, s.which): s.macs for s in plan.sums}
    conv, hidden = 32 * 6 * 6 * 16 * 9 * 4, 32 * 6 * 6 * 16 * 20
    assert work == {
        **{("conv", which): conv for which in ("FWD", "GRAD")},
        **{("hidden", which): hidden for which in ("FWD", "BWD", "GRAD")},
        **{("last", which): 32 * 20 * 10 for which in ("FWD", "BWD", "GRAD")},
    }


def test_layers_have_the_cost_of_their_width(plan):
    report = plan.hardware()
    base = unit_cost(FLOAT32, chunked=False)
    widths = {(s.layer, s.which): s for s in plan.sums if s.layer != "last"}
    assert {(row.layer, row.which) for row in report.layers} == set(widths)
    for row in report.layers:
        cost = unit_cost(lp.FloatFormat(6, row.mantissa_bits))
        assert row.mantissa_bits == widths[row.layer, row.which].mantissa_bits
        assert row.area == cost.area and row.area_ratio == base.area / cost.area
        assert row.microjoules == row.macs * cost.picojoules * 1e-6
    assert set(report.left_out) == {("last", which) for which in ("FWD", "BWD", "GRAD")}


def test_totals(plan):
    report = plan.hardware()
    float32, one, planned = report.totals
    assert [t.name for t in report.totals] == ["float32", "one width", "planned"]
    assert float32.area_ratio == float32.energy_ratio == 1
    macs = sum(row.macs for row in report.layers)
    assert float32.microjoules == pytest.approx(
        macs * unit_cost(FLOAT32, chunked=False).picojoules * 1e-6
    )
    widest = unit_cost(lp.FloatFormat(6, max(row.mantissa_bits for row in report.layers)))
    assert one.area == widest.area
    assert planned.microjoules == pytest.approx(sum(row.microjoules for row in report.layers))
    mean = sum(row.area * row.macs for row in report.layers) / macs
    assert planned.area == pytest.approx(mean)


@pytest.mark.parametrize("rounding", [r.value for r in lp.Rounding])
def test_fewer_bits_never_cost_much_more(rounding):
    """Synthesis is not monotone to the gate; each unit is near or below the next wider one."""
    costs = [unit_cost(lp.FloatFormat(6, m), rounding) for m in range(24)]
    for narrow, wide in zip(costs, costs[1:]):
        assert 0 < narrow.area < 1.15 * wide.area
        assert 0 < narrow.picojoules < 1.15 * wide.picojoules


@pytest.mark.parametrize("format", [lp.FP16, lp.BF16, lp.FloatFormat(7, 9)])
def test_a_unit_that_was_not_synthesized(format):
    with pytest.raises(ValueError, match="no synthesized unit"):
        unit_cost(format)


def test_other_operands_have_no_units():
    with pytest.raises(ValueError, match="plan with operand=FP8_E5M2"):
        lp.analysis.plan(model(), 32, operand=lp.FloatFormat(4, 3)).hardware()


def test_a_plan_of_old_has_no_work(plan):
    """Plans written before there was `macs`, too, have areas."""
    config = json.loads(plan.to_json())
    for s in config["sums"]:
        del s["macs"]
    report = lp.analysis.Plan.from_json(json.dumps(config)).hardware()
    assert all(row.microjoules is None for row in report.layers)
    assert report.totals[2].microjoules is None and report.totals[2].area > 0
    assert "all: planned" in str(report)


def test_command(capsys, tmp_path):
    path = tmp_path / "model.keras"
    model().save(path)
    assert cli.main(["plan", str(path), "--batch-size", "32", "--hardware"]) == 0
    text = capsys.readouterr().out
    assert "multiply-accumulate units" in text and "all: one width" in text
