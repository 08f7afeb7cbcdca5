"""The tf-lowprec command: what it prints and writes, its errors and exit codes."""

import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import tf_lowprec as lp
from tf_lowprec import cli

L = tf.keras.layers


def small_model():
    """What `test_cli:small_model` names."""
    return tf.keras.Sequential(
        [
            tf.keras.Input((12, 12, 1)),
            L.Conv2D(4, 3, name="conv"),
            L.Flatten(),
            L.Dense(10, name="last"),
        ]
    )


def not_a_model():
    return 3


def with_arguments(width):
    return width


def failing():
    raise KeyError("width")


def words(text):
    return re.sub(r"[│┃\s]+", " ", text)


def test_vrr_prints_both_rules(capsys):
    assert cli.main(["vrr", "--n", "4608", "--chunk", "none"]) == 0
    text = capsys.readouterr().out
    assert "asked for: 9 bits by v(n) < 50; 7 bits by noise below 0.01" in words(text)
    ratio, lost = lp.analysis.vrr(9, 5, 4608), lp.analysis.variance_lost(9, 5, 4608)
    assert f" 9 {ratio:.6f} {lost:.3g} " in words(text)


def test_vrr_measures(capsys):
    command = ["vrr", "--n", "200", "--chunk", "best", "--rounding", "toward_zero"]
    assert cli.main([*command, "--measure", "--samples", "200"]) == 0
    text = words(capsys.readouterr().out)
    accumulator = lp.Accumulator(lp.FloatFormat(8, 5), 15, "toward_zero")
    measured = lp.analysis.measured_vrr(accumulator, 5, 200, 200)
    assert "chunks of 15, toward_zero" in text
    assert f"{measured.vrr:.4f} ±" in text


def test_plan_of_a_function_writes_all(capsys, tmp_path):
    plot, json = tmp_path / "plan.png", tmp_path / "plan.json"
    command = ["plan", "test_cli:small_model", "--batch-size", "32", "--chunk", "none"]
    assert cli.main([*command, "--perturb", "-1", "--plot", str(plot), "--json", str(json)]) == 0
    want = lp.analysis.plan(small_model(), 32, chunk=None).perturb(-1)
    saved = lp.analysis.Plan.from_json(json)
    assert saved.sums == want.sums
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert " conv 9 " in words(capsys.readouterr().out)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_plan_of_a_file(capsys, tmp_path, suffix):
    model = lp.convert(small_model(), lp.Policy.fp8(9))
    model.save(tmp_path / f"model{suffix}")
    assert cli.main(["plan", str(tmp_path / f"model{suffix}"), "--batch-size", "32"]) == 0
    assert "3,200" in capsys.readouterr().out


def test_options_reach_the_plan(tmp_path):
    json = str(tmp_path / "plan.json")
    command = ["plan", "test_cli:small_model", "--batch-size", "32", "--json", json]
    options = ["--rule", "noise", "--noise", "0.001", "--chunk", "best", "--operand", "4,3"]
    assert cli.main([*command, *options, "--rounding", "stochastic"]) == 0
    want = lp.analysis.plan(
        small_model(), 32, lp.FloatFormat(4, 3), "best",
        rule="noise", noise_to_signal=1e-3, rounding="stochastic",
    )  # fmt: skip
    assert lp.analysis.Plan.from_json(json).sums == want.sums


def test_plan_measures_an_npz_file(capsys, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 12, 12, 1)).astype(np.float32), np.arange(40) % 10
    np.savez(tmp_path / "data.npz", x=x, y=y)
    command = ["plan", "test_cli:small_model", "--data", str(tmp_path / "data.npz")]
    json = tmp_path / "plan.json"
    assert cli.main([*command, "--batch-size", "32", "--json", str(json)]) == 0
    out = capsys.readouterr().out
    assert "NZR" in out
    plan = lp.analysis.Plan.from_json(json)
    assert all(s.vrr is not None for s in plan.sums)
    assert all(f"{s.vrr:.4f}" in out for s in plan.sums)
    assert cli.main(command) == 1
    assert "--data needs --batch-size" in capsys.readouterr().err


def test_narrow_terminals_show_a_row_for_each_pass(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_console", lambda: Console(width=60))
    assert cli.main(["plan", "test_cli:small_model", "--batch-size", "32"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert [line.split("│")[2].strip() for line in out.splitlines() if "│" in line] == [
        *("FWD", "GRAD", "FWD", "BWD", "GRAD")
    ]


@pytest.mark.parametrize("channels, size", [(1, 28), (3, 28), (3, 40)])
def test_images_are_brought_to_the_models_shape(monkeypatch, channels, size):
    images = np.full((5, 28, 28), 255, np.uint8)
    monkeypatch.setattr(lp.datasets, "mnist", lambda: ((images, np.arange(5)), None))
    model = tf.keras.Sequential([tf.keras.Input((size, size, channels)), L.Flatten(), L.Dense(2)])
    x, y = cli._data("mnist", model, 4)
    assert x.shape == (4, size, size, channels)
    np.testing.assert_allclose(x, 1.0)
    assert y.shape == (4,)


@pytest.mark.parametrize("logits", [True, False])
def test_loss_is_of_logits_unless_outputs_are_probabilities(logits):
    activation = None if logits else "softmax"
    model = tf.keras.Sequential([tf.keras.Input((3,)), L.Dense(4, activation=activation)])
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    loss = cli._classification_loss(model, (x, np.arange(4)))
    assert loss.get_config()["from_logits"] == logits


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "a_net_of_mine.py").write_text(
        "from test_cli import small_model\n\n\ndef net():\n    return small_model()\n"
    )
    monkeypatch.chdir(tmp_path)
    # As the installed command has it, not python -m.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert cli.main(["plan", "a_net_of_mine:net", "--batch-size", "4"]) == 0
    assert "FWD" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, message",
    [
        (["vrr", "--n", "0"], "tf-lowprec vrr: n = 0 must be a positive integer"),
        (["vrr", "--n", "10", "--nzr", "2"], "nzr = 2"),
        (["vrr", "--n", "10", "--chunk", "0"], "chunk = 0"),
        (["plan", "nothing"], "model 'nothing' must be a .keras or .h5 file"),
        (["plan", "nothing.keras"], "no such file"),
        (["plan", "tf_lowprec.models:resnet99"], "resnet99"),
        (["plan", "no_such_module:f"], "no_such_module"),
        (["plan", "test_cli:not_a_model"], "gives int, not a tf.keras.Model"),
        (["plan", "test_cli:with_arguments"], "a function of no arguments"),
        (["plan", "test_cli:failing"], "model 'test_cli:failing': KeyError: 'width'"),
        (["plan", "a_module_that_fails:f"], "model 'a_module_that_fails:f': NameError"),
        (["inspect", "empty.keras"], "model 'empty.keras' cannot be loaded"),
        (["inspect", "text.keras"], "model 'text.keras' is damaged"),
        (["plan", "test_cli:small_model", "--plot", "nowhere/p.png"], "no folder nowhere"),
        (["plan", "test_cli:small_model", "--batch-size", "4", "--data", "bad.npz"], "damaged"),
        (["plan", "test_cli:small_model", "--batch-size", "4", "--data", "words.npz"], "dtype <U"),
        (["plan", "test_cli:small_model"], "batch_size is unknown"),
        (["plan", "test_cli:small_model", "--batch-size", "0"], "batch_size = 0"),
        (["plan", "test_cli:small_model", "--batch-size", "4", "--data", "x.npz"], "x.npz"),
        (["plan", "test_cli:small_model", "--batch-size", "4", "--data", "nothere"], "mnist"),
        (["plan", "tests"], "without saved_model.pb"),
    ],
)
def test_errors_are_one_line_and_exit_1(command, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_module_that_fails.py").write_text("nowhere\n")
    (tmp_path / "tests").mkdir()
    with zipfile.ZipFile("empty.keras", "w"):
        pass
    (tmp_path / "text.keras").write_text("model\n")
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4 and no more")
    np.savez("words.npz", x=np.array(["a", "b"]), y=np.arange(2))
    assert cli.main(command) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("tf-lowprec")]
    assert message in line


def test_plan_of_a_saved_model(capsys, tmp_path):
    model, folder, json = small_model(), str(tmp_path / "saved"), str(tmp_path / "plan.json")
    model.export(folder)
    assert cli.main(["plan", folder, "--batch-size", "32", "--json", json]) == 0
    got = lp.analysis.Plan.from_json(json).sums
    want = lp.analysis.plan(model, 32).sums
    assert [(s.which, s.n, s.mantissa_bits, s.is_last) for s in got] == [
        (s.which, s.n, s.mantissa_bits, s.is_last) for s in want
    ]
    assert cli.main(["plan", folder, "--batch-size", "32", "--data", "mnist"]) == 1
    assert "a SavedModel is a graph" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [[], ["vrr"], ["vrr", "--n", "ten"], ["plan", "m", "--rule", "guess"], ["fit"]],
)
def test_wrong_usage_exits_2(command, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(command)
    assert error.value.code == 2
    assert "usage: tf-lowprec" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["plan", "--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for option in ("--batch-size", "--chunk", "--rule", "--data", "--plot", "--json", "--perturb"):
        assert option in text


def test_python_m_runs_it(tmp_path):
    # The package that these tests have imported, from a folder that holds no other.
    source = os.path.dirname(os.path.dirname(lp.__file__))
    done = subprocess.run(
        [sys.executable, "-m", "tf_lowprec", "vrr", "--n", "1024"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert done.returncode == 0
    assert "asked for" in done.stdout
