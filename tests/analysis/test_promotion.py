"""Aligned accumulators: closed forms against measurements, and plans of promotion."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.analysis import aligned_loss, aligned_noise


def accumulator(bits, promote=None):
    return lp.Accumulator.aligned(32, bits, lp.FloatFormat(8, bits), "toward_zero", promote)


@pytest.mark.parametrize("promote", [None, 128])
def test_noise_is_an_upper_bound_within_a_factor_of_three(promote):
    found = lp.analysis.measured_vrr(
        accumulator(7, promote), None, 2048, 512, operand=lp.FP8_E4M3FN
    )
    predicted = aligned_noise(accumulator(7, promote), 2048)
    assert found.noise_interval[0] < predicted < 3 * found.noise


def test_loss_of_terms_of_one_sign():
    rng = np.random.default_rng(0)
    a, b = (rng.random(s).astype(np.float32) for s in ((1, 1024), (1024, 32)))
    format = lp.FP8_E4M3FN
    a, b = lp.quantize(a, format).numpy(), lp.quantize(b, format).numpy()
    y = lp.matmul(a, b, lp.Gemm(format, format, accumulator(10))).numpy()
    loss = 1 - np.mean(y / (np.float64(a) @ np.float64(b)))
    assert loss < aligned_loss(accumulator(10), 1024) < 1.7 * loss


def model():
    return tf.keras.Sequential(
        [tf.keras.Input((4096,)), tf.keras.layers.Dense(8), tf.keras.layers.Dense(2)]
    )


def test_plan():
    plan = lp.analysis.plan(
        model(), 256, lp.FP8_E4M3FN, accumulator=lp.Accumulator.hopper(), relative_loss=1e-2
    )
    asked = {(s.layer, s.which): s.promote for s in plan.sums}
    first, second = plan.sums[0].layer, plan.sums[-1].layer
    # 0.18 L / 8192 <= 0.01 up to L = 454.
    assert asked == {
        (first, "FWD"): 256,
        (first, "GRAD"): None,
        (second, "FWD"): None,
        (second, "BWD"): None,
        (second, "GRAD"): None,
    }
    policy = plan.policies()[first]
    assert policy.forward.accumulator == lp.Accumulator.hopper(256)
    assert policy.gradient.accumulator == lp.Accumulator.hopper()
    assert plan.table().row_count == 5
    assert str(plan.table()) == str(plan)
    config = plan.get_config()
    assert lp.analysis.PromotionPlan.from_config(config) == plan


def test_without_one_sign_nothing_is_promoted():
    plan = lp.analysis.plan(model(), 2**20, lp.FP8_E4M3FN, accumulator=lp.Accumulator.hopper())
    assert {s.promote for s in plan.sums} == {None}


def test_a_plan_converts(tmp_path):
    stock = model()
    plan = lp.analysis.plan(
        stock, 256, lp.FP8_E4M3FN, accumulator=lp.Accumulator.hopper(), relative_loss=1e-2
    )
    converted = lp.convert(stock, plan)
    assert converted.layers[-2].precision.forward.accumulator.promote == 256
    plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert plan.to_json(tmp_path / "plan.json") == (tmp_path / "plan.json").read_text()
    assert lp.analysis.PromotionPlan.from_json(tmp_path / "plan.json") == plan
    assert "every 256" in str(plan)


def test_block_formats_are_planned():
    plan = lp.analysis.plan(model(), 256, lp.MXFP4_E2M1, last_layer=None)
    assert {s.operand for s in plan.sums} == {lp.MXFP4_E2M1}
    assert lp.analysis.Plan.from_json(plan.to_json()) == plan
    assert next(iter(plan.policies().values())).forward.lhs == lp.MXFP4_E2M1


def test_arguments():
    with pytest.raises(ValueError, match="must be an aligned"):
        lp.analysis.plan(model(), 256, accumulator=lp.Accumulator.native())
    with pytest.raises(ValueError, match="relative_loss is for"):
        lp.analysis.plan(model(), 256, relative_loss=1e-2)
    with pytest.raises(ValueError, match="not even promotion after every 32"):
        lp.analysis.plan(
            model(), 256, lp.FP8_E4M3FN, accumulator=accumulator(2), noise_to_signal=1e-3
        )
    with pytest.raises(ValueError, match="operand = None"):
        lp.analysis.measured_vrr(lp.Accumulator.hopper(), None, 64)


def test_what_is_no_plan():
    with pytest.raises(ValueError, match="this is no PromotionPlan"):
        lp.analysis.PromotionPlan.from_json("{}")
