"""Reader of .keras files: hostile ones are refused, compile configs parsed."""

import json
import zipfile

import keras
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
    with pytest.raises(errors.DataError, match=r"only \.keras"):
        keras_file.load(tmp_path / "a.h5")
    (tmp_path / "text.keras").write_text("no zip")
    with pytest.raises(errors.DataError, match="no zip"):
        keras_file.load(tmp_path / "text.keras")


def test_truncated_file_is_refused(good):
    content = good.read_bytes()
    good.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.DataError, match="no zip"):
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
        pytest.param("config.json", b"{", "no zip with a config", id="cut"),
        pytest.param("config.json", b"[]", "not that of a model", id="list"),
        pytest.param(
            "config.json",
            b'{"compile_config": 3}',
            "not that of a model",
            id="int",
        ),
    ],
)
def test_damaged_member_is_refused(name, content, message, good):
    replace_member(good, name, content)
    with pytest.raises(errors.DataError, match=message):
        keras_file.load(good)


def test_model_of_other_inputs_and_outputs_is_refused(tmp_path):
    path = tmp_path / "a.keras"
    vector = keras_models.sequential(keras.layers.Dense(10), input_shape=(7,))
    with pytest.raises(errors.DataError, match="must be images"):
        save_and_load(vector, path)
    maps = keras_models.sequential(keras.layers.Conv2D(10, 3))
    with pytest.raises(errors.DataError, match="must be a number a class"):
        save_and_load(maps, path)


def test_a_file_with_a_custom_loss_is_accepted(tmp_path):
    model = keras_models.compiled(keras_models.plain(), custom_loss)
    loaded = save_and_load(model, tmp_path / "a.keras")
    assert loaded.loss == "custom_loss"


def test_model_that_was_not_compiled_has_an_empty_compile_config(tmp_path):
    loaded = save_and_load(keras_models.plain(), tmp_path / "a.keras")
    assert (loaded.loss, loaded.optimizer, loaded.metrics) == ("", "", [])
    assert not loaded.from_logits
    assert not loaded.optimizer_config


@pytest.mark.parametrize(
    ("loss", "name", "from_logits"),
    [
        pytest.param(
            "sparse_categorical_crossentropy",
            "sparse_categorical_crossentropy",
            False,
            id="string",
        ),
        pytest.param(
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "sparse_categorical_crossentropy",
            True,
            id="object",
        ),
        pytest.param(
            keras.losses.binary_crossentropy,
            "binary_crossentropy",
            False,
            id="function",
        ),
    ],
)
def test_loss_is_named_in_each_of_its_forms(loss, name, from_logits, tmp_path):
    model = keras_models.compiled(keras_models.plain(), loss)
    loaded = save_and_load(model, tmp_path / "a.keras")
    assert loaded.loss == name
    assert loaded.from_logits == from_logits


def test_metrics_and_optimizer_are_read(tmp_path):
    model = keras_models.compiled(
        keras_models.plain(),
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4),
        metrics=["accuracy", keras.metrics.BinaryAccuracy()],
    )
    loaded = save_and_load(model, tmp_path / "a.keras")
    assert loaded.metrics == ["accuracy", "binary_accuracy"]
    assert loaded.optimizer == "sgd"
    assert loaded.optimizer_config["momentum"] == pytest.approx(0.9)
    assert json.dumps(loaded.compile_config)
