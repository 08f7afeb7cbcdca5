"""The loader refuses a library that was built for another TensorFlow."""

import pathlib
import re

import pytest
import tensorflow as tf

from tf_lowprec.ops import _library
from tf_lowprec.ops.streams import Stream


def test_other_tensorflow_is_refused_with_both_versions_and_the_fix():
    with pytest.raises(ImportError, match=r"built for TensorFlow 2\.15\.1.*2\.21\.0.*make build"):
        _library.check_version("2.15.1", "2.21.0")


def test_built_version_is_checked_before_the_library_opens(monkeypatch):
    monkeypatch.setattr(_library._build_info, "TENSORFLOW_VERSION", "1.0.0")
    monkeypatch.setattr(tf, "load_op_library", lambda path: pytest.fail("opened"))
    with pytest.raises(ImportError, match=r"1\.0\.0"):
        _library._load()


def test_missing_library_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "_LIBRARY", tmp_path / "_ops.so")
    with pytest.raises(ImportError, match="make build"):
        _library._load()


def test_library_without_build_information_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr(_library, "_build_info", None)
    with pytest.raises(ImportError, match="make build"):
        _library._load()


def test_library_that_cannot_open_says_so(monkeypatch, tmp_path):
    (tmp_path / "_ops.so").write_bytes(b"not a library")
    monkeypatch.setattr(_library, "_LIBRARY", tmp_path / "_ops.so")
    with pytest.raises(ImportError, match="cannot open"):
        _library._load()


def test_streams_mirror_the_header():
    header = pathlib.Path(__file__).parents[2] / "cc/numerics/streams.h"
    entries = re.findall(r"^\s*k(\w+) = (\d+),", header.read_text(), re.MULTILINE)
    names = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper(): int(v) for name, v in entries}
    assert names == {s.name: s.value for s in Stream}


def test_stream_of_a_variable_keeps_its_id_in_the_lower_half():
    assert Stream.STEP.of(3) == 3 * 2**32 + int(Stream.STEP)
