"""Tests of the reader of .keras files, which may be hostile."""

import zipfile

import keras
import numpy as np
import pytest

from job import errors
from job.diagnose import keras_file
from tests.support import keras_models


class Custom(keras.layers.Layer):
    """Layer of the file's author."""

    def call(self, x):
        return x


def custom_loss(labels, outputs):
    return keras.ops.mean(outputs)


def save_and_load(model, path):
    model.save(path)
    return keras_file.load(path)


@pytest.fixture
def good(tmp_path):
    """A .keras file that can be loaded."""
    path = tmp_path / "good.keras"
    keras_models.compiled(keras_models.plain()).save(path)
    return path


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        pytest.param(keras.layers.Lambda(lambda x: x), "Lambda", id="lambda"),
        pytest.param(Custom(), "Custom", id="custom"),
    ],
)
def test_code_of_the_author_is_refused(layer, name, tmp_path):
    model = keras_models.sequential(layer, *keras_models.plain_layers())
    with pytest.raises(errors.DataError, match=name) as caught:
        save_and_load(model, tmp_path / "a.keras")
    assert "\n" not in str(caught.value)


def test_absent_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(errors.DataError, match="the file does not exist"):
        keras_file.load(tmp_path / "none.keras")
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(
        errors.DataError, match=r"not a \.keras file. Fix: run keras.models"
    ):
        keras_file.load(tmp_path / "a.h5")
    (tmp_path / "saved").mkdir()
    with pytest.raises(errors.DataError, match=r"a folder.*call model\.save"):
        keras_file.load(tmp_path / "saved")
    (tmp_path / "text.keras").write_text("no zip")
    with pytest.raises(errors.DataError, match="not a zip"):
        keras_file.load(tmp_path / "text.keras")


def test_truncated_file_is_refused(good):
    content = good.read_bytes()
    good.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.DataError, match="not a zip"):
        keras_file.load(good)


def test_archive_with_another_member_is_refused(good):
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr("../evil", "x")
    with pytest.raises(errors.DataError, match="evil"):
        keras_file.load(good)


def replace_member(path, name, content):
    """Replaces a member of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, old in members.items():
            archive.writestr(member, content if member == name else old)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "model.weights.h5", b"no HDF5", "cannot be loaded", id="weights"
        ),
        pytest.param("config.json", b"{", "not a zip archive", id="cut"),
        pytest.param("config.json", b"[]", "does not describe", id="list"),
    ],
)
def test_damaged_member_is_refused(name, content, message, good):
    replace_member(good, name, content)
    with pytest.raises(errors.DataError, match=message):
        keras_file.load(good)


def test_model_of_other_inputs_and_outputs_is_refused(tmp_path):
    path = tmp_path / "a.keras"
    vector = keras_models.sequential(keras.layers.Dense(10), input_shape=(7,))
    with pytest.raises(errors.DataError, match="a model of images"):
        save_and_load(vector, path)
    maps = keras_models.sequential(keras.layers.Conv2D(10, 3))
    with pytest.raises(errors.DataError, match="has outputs"):
        save_and_load(maps, path)


def test_a_file_with_a_custom_loss_is_accepted(tmp_path):
    model = keras_models.compiled(keras_models.plain(), custom_loss)
    assert not save_and_load(model, tmp_path / "a.keras").compiled


def test_model_that_was_not_compiled_is_read(tmp_path):
    assert not save_and_load(
        keras_models.plain(), tmp_path / "a.keras"
    ).compiled


def test_optimizer_and_its_steps_are_read(tmp_path):
    model = keras_models.compiled(
        keras_models.plain(),
        keras.losses.sparse_categorical_crossentropy,
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4),
    )
    images = np.zeros((64, 32, 32, 3), np.float32)
    model.fit(images, np.zeros(64), batch_size=32, verbose=0)
    loaded = save_and_load(model, tmp_path / "a.keras")
    assert loaded.compiled
    assert int(loaded.optimizer.iterations) == 2
    assert loaded.optimizer.momentum == 0.9
