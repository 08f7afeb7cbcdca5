"""FloatFormat, FixedPointFormat, Rounding: values with the right numbers, checks, serialization."""

import copy
import dataclasses
import json
import pickle
import re

import cases
import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import PRESETS
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.formats import check_format, parse_spec

any_format = st.one_of(cases.float_formats(), cases.fixed_formats())
EXAMPLES = [*(format for format, _ in PRESETS.values()), lp.FP32, lp.FixedPointFormat(2, 14)]
no_deadline = settings(deadline=None)  # the first op call takes long
examples = pytest.mark.parametrize("format", EXAMPLES, ids=lambda f: f.spec)


# Numbers.


@no_deadline
@given(format=cases.float_formats(max_bits=11))
def test_float_properties_equal_the_enumeration(format):
    grid = oracle.grid(format)
    assert grid == sorted(set(grid))
    assert (format.max, format.min) == (grid[-1], -grid[-1])
    assert format.smallest == grid[1]


@no_deadline
@given(format=cases.float_formats())
def test_float_properties_equal_the_definition(format):
    assert format.bits == 1 + format.exponent_bits + format.mantissa_bits
    assert format.bias == 2 ** (format.exponent_bits - 1) - 1
    assert format.max == -format.min == oracle.largest(format)
    assert format.smallest == oracle.smallest(format)
    assert format.min_exponent == (0 if format.specials == "dlfloat" else 1) - format.bias


@no_deadline
@given(format=cases.fixed_formats())
def test_fixed_point_properties_equal_the_definition(format):
    word = format.integer_bits + format.fractional_bits
    values = [oracle.decode(code, format) for code in (2 ** (word - 1), 2 ** (word - 1) - 1)]
    assert format.bits == word
    assert [format.min, format.max] == values
    assert format.epsilon == format.smallest == 2.0**-format.fractional_bits


@no_deadline
@given(format=any_format)
def test_float32_holds_the_extremes(format):
    for value in (format.min, format.smallest, format.max):
        assert isinstance(value, float)
        assert float(np.float32(value)) == value


@pytest.mark.parametrize("name", PRESETS)
def test_presets_equal_ml_dtypes(name):
    format, type_name = PRESETS[name]
    dtype = cases.numpy_type(type_name)
    if dtype is None:
        pytest.skip("ml_dtypes has no such type")
    info = np.finfo(dtype) if dtype == np.float16 else cases.ml_dtypes.finfo(dtype)
    got = (format.max, format.min, format.smallest)
    assert got == (float(info.max), float(info.min), float(info.smallest_subnormal))


@pytest.mark.parametrize(
    "format, fields",
    [
        (lp.FP8_E5M2, (5, 2, "ieee")),
        (lp.FP8_E4M3FN, (4, 3, "fn")),
        (lp.FP6_E3M2FN, (3, 2, "finite")),
        (lp.FP6_E2M3FN, (2, 3, "finite")),
        (lp.FP4_E2M1FN, (2, 1, "finite")),
        (lp.FP16, (5, 10, "ieee")),
        (lp.BF16, (8, 7, "ieee")),
        (lp.TF32, (8, 10, "ieee")),
        (lp.FP32, (8, 23, "ieee")),
        (lp.DLFLOAT16, (6, 9, "dlfloat")),
    ],
)
def test_presets(format, fields):
    assert (format.exponent_bits, format.mantissa_bits, format.specials) == fields
    assert not format.saturate
    assert format.subnormals == (format.specials != "dlfloat")


def test_defaults():
    assert lp.FloatFormat() == lp.FP8_E5M2
    assert lp.FixedPointFormat() == lp.FixedPointFormat(2, 14)


# Values: immutable, hashable, comparable.


@examples
def test_is_immutable(format):
    for field in dataclasses.fields(format):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(format, field.name, getattr(format, field.name))


@examples
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f)), dataclasses.replace],
    ids=["copy", "deepcopy", "pickle", "replace"],
)
def test_copies_are_equal_with_equal_hash(format, duplicate):
    other = duplicate(format)
    assert other == format
    assert hash(other) == hash(format)


def test_every_field_tells_formats_apart():
    formats = [
        lp.FloatFormat(5, 2),
        lp.FloatFormat(4, 2),
        lp.FloatFormat(5, 3),
        lp.FloatFormat(5, 2, "fn"),
        lp.FloatFormat(5, 2, saturate=True),
        lp.FloatFormat(5, 2, subnormals=False),
        lp.FixedPointFormat(5, 2),
        lp.FixedPointFormat(2, 5),
    ]
    assert len(set(formats)) == len(formats)


def test_dlfloat_has_no_subnormals_whatever_is_asked():
    formats = [lp.FloatFormat(6, 9, "dlfloat", subnormals=s) for s in (True, False)]
    assert formats[0] == formats[1] == lp.DLFLOAT16
    assert not formats[0].subnormals


def test_flags_become_booleans():
    format = lp.FloatFormat(5, 2, saturate=1, subnormals=0)
    assert (format.saturate, format.subnormals) == (True, False)
    assert type(format.saturate) is type(format.subnormals) is bool


# Serialization.


@no_deadline
@given(format=any_format)
def test_config_round_trip(format):
    config = json.loads(json.dumps(format.get_config()))
    assert type(format).from_config(config) == format


@examples
def test_keras_round_trip(format):
    serialized = json.loads(json.dumps(tf.keras.utils.serialize_keras_object(format)))
    assert tf.keras.utils.deserialize_keras_object(serialized) == format


@pytest.mark.parametrize("cls", [lp.FloatFormat, lp.FixedPointFormat])
def test_registered_under_the_packages_name(cls):
    assert tf.keras.utils.get_registered_name(cls) == f"tf_lowprec>{cls.__name__}"


@no_deadline
@given(format=any_format)
def test_spec_round_trip(format):
    assert parse_spec(format.spec) == format


@no_deadline
@given(format=any_format)
def test_ops_read_the_spec_too(format):
    assert lp.quantize(0.0, format) == 0.0


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "fixed",
        "fixed<>",
        "fixed<2>",
        "fixed<2,14",
        "fixed<2,14>>",
        "fixed<2,14>x",
        "fixed<2,14,3>",
        "fixed<a,b>",
        "fixed<2.0,14>",
        "posit<8,1>",
        "float<5,2>",
        "float<5,2,ieee",
        "float<5,2,ieee,>",
        "float<5,2,ieee,other>",
        "float<5,x,ieee>",
    ],
)
def test_wrong_spec_is_shown(spec):
    with pytest.raises(ValueError, match=re.escape(repr(spec))):
        parse_spec(spec)


@pytest.mark.parametrize(
    "spec, word", [("float<9,2,ieee>", "exponent_bits = 9"), ("fixed<20,10>", "= 30")]
)
def test_spec_of_a_wrong_format_names_the_field(spec, word):
    with pytest.raises(ValueError, match=word):
        parse_spec(spec)


@pytest.mark.parametrize(
    "format, text",
    [
        (lp.FP8_E5M2, "(1,5,2) ieee"),
        (lp.DLFLOAT16, "(1,6,9) dlfloat"),
        (lp.FixedPointFormat(2, 14), "<2,14>"),
    ],
)
def test_str_is_the_papers_notation(format, text):
    assert str(format) == text


@examples
def test_repr_evaluates_to_the_format(format):
    assert eval(repr(format), {**vars(lp)}) == format


# Checks.


@pytest.mark.parametrize("value", [1, 9, -5, 0, 5.0, "5", None, True])
def test_exponent_bits_out_of_range(value):
    with pytest.raises(ValueError, match=re.escape(f"exponent_bits = {value!r} must") + ".*2..8"):
        lp.FloatFormat(value, 2)


@pytest.mark.parametrize("value", [-1, 24, 2.0, "2", None, False])
def test_mantissa_bits_out_of_range(value):
    with pytest.raises(ValueError, match=re.escape(f"mantissa_bits = {value!r} must") + ".*0..23"):
        lp.FloatFormat(5, value)


@pytest.mark.parametrize("value", ["IEEE", "", "fnuz", None, 1])
def test_unknown_specials(value):
    with pytest.raises(ValueError, match=f"specials = {value!r} must.*'ieee'.*'dlfloat'"):
        lp.FloatFormat(5, 2, value)


@pytest.mark.parametrize("specials", ["fn", "finite", "dlfloat"])
def test_eight_exponent_bits_are_ieee(specials):
    with pytest.raises(ValueError, match=f"exponent_bits = 8 .*'ieee'.*{specials!r}"):
        lp.FloatFormat(8, 7, specials)


def test_dlfloat_needs_mantissa_bits():
    with pytest.raises(ValueError, match="mantissa_bits = 0 .*dlfloat"):
        lp.FloatFormat(6, 0, "dlfloat")


@pytest.mark.parametrize("value", [0, 25, -1, 2.0, "2", None, True])
def test_integer_bits_out_of_range(value):
    with pytest.raises(ValueError, match=re.escape(f"integer_bits = {value!r} must") + ".*1..24"):
        lp.FixedPointFormat(value, 0)


@pytest.mark.parametrize("value", [-1, 24, 2.0, "2", None, False])
def test_fractional_bits_out_of_range(value):
    with pytest.raises(ValueError, match=re.escape(f"fractional_bits = {value!r} must")):
        lp.FixedPointFormat(1, value)


@pytest.mark.parametrize("fields", [(2, 23), (24, 1), (13, 12)])
def test_word_length_out_of_range(fields):
    with pytest.raises(ValueError, match=r"integer_bits \+ fractional_bits = 25 must.*24"):
        lp.FixedPointFormat(*fields)


@pytest.mark.parametrize("fields", [(1, 23), (24, 0), (1, 0), (12, 12)])
def test_longest_and_shortest_words_are_allowed(fields):
    assert lp.FixedPointFormat(*fields).bits in (1, 24)


def test_check_format_names_the_argument():
    with pytest.raises(ValueError, match=r"slot_format = 'fp8' must be .* or None"):
        check_format("fp8", "slot_format", optional=True)


def test_check_format_takes_none_where_it_is_optional():
    assert check_format(None, optional=True) is None
    with pytest.raises(ValueError, match="format = None must"):
        check_format(None)


# Rounding.


@pytest.mark.parametrize("name", oracle.ROUNDINGS)
def test_rounding_is_found_by_name(name):
    assert lp.Rounding.of(name) is lp.Rounding(name) is lp.Rounding.of(lp.Rounding(name))


def test_the_oracle_knows_every_rounding():
    assert {rounding.value for rounding in lp.Rounding} == set(oracle.ROUNDINGS)


@pytest.mark.parametrize("name", ["up", "NEAREST_EVEN", "", None, 1, []])
def test_unknown_rounding_names_the_argument(name):
    message = re.escape(f"forward_rounding = {name!r} must be one of") + ".*'stochastic'"
    with pytest.raises(ValueError, match=message):
        lp.Rounding.of(name, "forward_rounding")
