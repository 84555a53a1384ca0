"""Tests of weight files, of which only those of Keras are read."""

import os
import pickle

import h5py
import keras
import numpy as np
import pytest

from job import errors
from job.model import spec, weights
from job.storage import gcs
from tests.support.gcs_server import Fault
from tests.support.jobs import ROOT, from_environment, run_job


@pytest.fixture(scope="module")
def network():
    """Returns VGG16 of keras.applications with random weights."""
    return keras.applications.VGG16(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )


def write_keras_1(path, layers=None, **changes):
    """Writes a file in the format of keras.applications, with zeros."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for layer, shape in (layers or spec.kernel_shapes()).items():
            group = file.create_group(layer)
            for kind, wanted in (("W", shape), ("b", shape[-1:])):
                name = f"{layer}_{kind}_1:0"
                value = rng.random(wanted, np.float32)
                group[name] = changes.get(name, value)
    return path


def refused(path, *said, **options):
    with pytest.raises(errors.DataError) as caught:
        weights.load(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(path), *said):
        assert words in message


@pytest.mark.parametrize("form", ["keras_1", ".weights.h5", ".h5"])
def test_every_weight_format_of_keras_is_read(tmp_path, network, form):
    path = tmp_path / f"x{form}"
    if form == "keras_1":
        values = {
            f"{layer.name}_{kind}_1:0": value
            for layer in network.layers
            for kind, value in zip("Wb", layer.get_weights(), strict=False)
        }
        write_keras_1(path, **values)
    elif form == ".weights.h5":
        network.save_weights(path)
    else:
        network.save(path)
    found = weights.load(str(path))
    assert len(found) == 26
    for layer in spec.kernel_shapes():
        kernel, bias = network.get_layer(layer).get_weights()
        np.testing.assert_array_equal(found[f"{layer}/kernel"], kernel)
        np.testing.assert_array_equal(found[f"{layer}/bias"], bias)


def test_a_file_in_a_bucket_is_read(tmp_path, bucket, monkeypatch):
    path = write_keras_1(tmp_path / "x.h5")
    bucket.put("x.h5", path.read_bytes())
    bucket.server.faults = [Fault("GET", "503", times=2)]
    found = weights.load(f"{bucket.url}/x.h5")
    for name, value in weights.load(str(path)).items():
        np.testing.assert_array_equal(found[name], value)
    refused(f"{bucket.url}/y.h5", "does not exist")
    refused("gs://no-such-bucket/x.h5", "does not exist")
    refused(f"{bucket.url}/x.h5", "more than 1,000", max_bytes=1000)
    # A later attempt may find the object.
    bucket.server.faults = [Fault("GET", "503", times=-1)]
    defaults = gcs.Bucket.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "timeout_seconds", 0.5)
    with pytest.raises(
        errors.UnavailableError, match="no request succeeded in time"
    ):
        weights.load(f"{bucket.url}/x.h5")


def test_imagenets_weights_are_read():
    path = from_environment("VGG16_WEIGHTS")
    found = weights.load(str(path if path.is_absolute() else ROOT / path))
    assert found["block5_conv3/kernel"].shape == (3, 3, 512, 512)


def test_no_file_and_no_hdf5(tmp_path):
    refused(tmp_path / "none.h5", "does not exist")
    refused(tmp_path, "Is a directory")
    text = tmp_path / "text.h5"
    text.write_text("not weights")
    refused(text, "not an intact HDF5 file")


def test_a_truncated_file(tmp_path):
    path = write_keras_1(tmp_path / "x.h5")
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 100, 100, 0):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "x.h5"
    path.write_bytes(pickle.dumps(Trap()))
    refused(path, "not an intact HDF5 file")
    assert not (tmp_path / "executed").exists()


def test_another_architecture(tmp_path):
    layers = spec.kernel_shapes()
    del layers["block3_conv3"]
    refused(
        write_keras_1(tmp_path / "vgg13.h5", layers),
        "block3_conv3/kernel is missing",
    )
    layers = {**spec.kernel_shapes(), "block3_conv4": (3, 3, 256, 256)}
    refused(
        write_keras_1(tmp_path / "vgg19.h5", layers), "entry", "block3_conv4"
    )
    layers = {**spec.kernel_shapes(), "block1_conv1": (3, 3, 1, 64)}
    refused(write_keras_1(tmp_path / "gray.h5", layers), "[3, 3, 1, 64]")


def test_numbers_of_another_kind(tmp_path):
    path = tmp_path / "x.h5"
    name = "block1_conv1_b_1:0"
    refused(write_keras_1(path, **{name: np.zeros(64)}), "float64")
    wrong = np.full(64, np.nan, np.float32)
    refused(write_keras_1(path, **{name: wrong}), "not finite")


def test_links_and_data_outside_the_file_are_not_followed(tmp_path):
    outside = write_keras_1(tmp_path / "outside.h5")
    name = "block1_conv1/block1_conv1_b_1:0"

    def relinked(link):
        path = write_keras_1(tmp_path / "x.h5")
        with h5py.File(path, "a") as file:
            del file[name]
            link(file)
        return path

    def external(file):
        file[name] = h5py.ExternalLink(str(outside), name)

    def soft(file):
        file[name] = h5py.SoftLink("/block1_conv2/block1_conv2_b_1:0")

    def stored_outside(file):
        raw = tmp_path / "raw"
        raw.write_bytes(bytes(256))
        file.create_dataset(
            name, (64,), np.float32, external=[(str(raw), 0, 256)]
        )

    def virtual(file):
        layout = h5py.VirtualLayout((64,), np.float32)
        layout[:] = h5py.VirtualSource(str(outside), name, (64,))
        file.create_virtual_dataset(name, layout)

    def cycle(file):
        del file["block1_conv1"]
        file["block1_conv1"] = file["/"]

    for link in (external, soft):
        refused(relinked(link), "is a link")
    for link in (stored_outside, virtual):
        refused(relinked(link), "stored in another file")
    refused(relinked(cycle), "too many entries")


def test_wrong_weights_end_the_job_with_3_and_one_line(tmp_path):
    (tmp_path / "x.h5").write_bytes(pickle.dumps([1, 2, 3]))
    done = run_job(
        "--config=configs/smoke.py",
        f"--workdir={tmp_path}/run",
        f"--config.model.weights={tmp_path}/x.h5",
        "--config.model.batch_norm=False",
        "--config.model.width=1",
    )
    assert done.returncode == 3, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("data error: ")
    assert "Traceback" not in done.stderr
    assert "model.weights=" in line
