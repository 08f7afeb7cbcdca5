"""examples/demo.py end to end, on made data: what it writes, and that Ctrl-C keeps it."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest

import tf_lowprec as lp

DEMO = pathlib.Path(__file__).parents[1] / "examples/demo.py"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Runs the demo on 200 made images; returns (exit code, results folder)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 300).astype(np.uint8)
    images = rng.integers(0, 60, (300, 28, 28)).astype(np.uint8)
    images[np.arange(300), 2 * labels, :] = 255  # a bright row tells the digit
    data = (images[:200], labels[:200]), (images[200:], labels[200:])
    monkeypatch.setattr(lp.datasets, "mnist", lambda: data)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["demo.py", "--results", str(tmp_path), *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(DEMO), run_name="__main__")
        return stop.value.code, tmp_path

    return call


def test_writes_table_json_and_png(demo, capsys):
    code, results = demo("--epochs", "2")
    runs = json.loads((results / "demo.json").read_text())["runs"]
    assert code == 0
    assert [r["name"] for r in runs] == [
        "float32",
        "<8,8> nearest",
        "<8,8> stochastic",
        "<2,14> stochastic",
    ]
    assert [r["weights_format"] for r in runs] == ["float32", "<8,8>", "<8,8>", "<2,14>"]
    assert [r["activations_format"] for r in runs] == ["float32", "<8,8>", "<8,8>", "<6,10>"]
    assert all(len(r["test_error_percent"]) == 2 and r["seed"] == 1 for r in runs)
    assert (results / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "test error in %" in capsys.readouterr().out


def test_interrupt_keeps_what_is_done(demo, monkeypatch):
    fit, calls = lp.models.mnist_dnn, []

    def interrupted_at_the_second_run(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(lp.models, "mnist_dnn", interrupted_at_the_second_run)
    code, results = demo("--epochs", "1")
    runs = json.loads((results / "demo.json").read_text())["runs"]
    assert code == 130
    assert [len(r["test_error_percent"]) for r in runs] == [1, 0]
    assert (results / "demo.png").exists()


def test_wrong_epochs_is_named(demo, capsys):
    assert demo("--epochs", "0")[0] == 2
    assert "--epochs 0: must be at least 1" in capsys.readouterr().err
