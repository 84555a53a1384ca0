"""Tests of the export, which a process without this job serves."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs import default, smoke
from job import build, errors, train
from job import trained as trained_lib
from job.data import synthetic
from job.model import export, vgg
from job.model import resize as resize_lib
from job.output import predictions
from job.report import card, page
from job.report import run as run_lib
from job.storage.workdir import PREDICTIONS, Workdir
from job.supervision import preemption
from job.training import evaluate
from tests.support.jobs import run_job

# Client of the export, which needs TensorFlow and Keras only.
CLIENT = """
import importlib.util, sys
import numpy as np
assert importlib.util.find_spec("job") is None, "the job is in reach"
import keras, tensorflow as tf
folder, images = sys.argv[1], np.load(sys.argv[2])
served = tf.saved_model.load(folder + "/saved_model")
signature = served.signatures["serving_default"]
(name, spec), = signature.structured_input_signature[1].items()
assert (name, spec.dtype, spec.shape.as_list()) == (
    "images", tf.uint8, [None, 32, 32, 3])
by_signature = signature(images=tf.constant(images))["probabilities"]
by_keras = keras.models.load_model(folder + "/model.keras")(images)
np.savez(sys.argv[3], by_signature=by_signature, by_keras=by_keras)
"""


def randomized(network, seed=0):
    """Sets every weight and every moving statistic to a different value."""
    rng = np.random.default_rng(seed)
    for variable in network.variables:
        # With these kernels, different inputs give different outputs.
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 0
        scale = (2 / fan_in) ** 0.5 if fan_in else 0.1
        value = variable.numpy() + rng.normal(size=variable.shape, scale=scale)
        if "variance" in variable.path:
            value = np.abs(value) + 0.3
        variable.assign(value)
    return network


def tell_apart(network, resize, images):
    """Scales the last layer, so that its outputs differ between images."""
    logits = network(resize(tf.constant(images)), training=False)[0].numpy()
    head = network.get_layer("logits")
    spread = logits.std(0).mean()
    kernel, bias = head.get_weights()
    head.set_weights([kernel / spread, (bias - logits.mean(0)) / spread])


def probabilities(network, resize, images):
    logits = network(resize(tf.constant(images)), training=False)[0]
    return tf.nn.softmax(logits).numpy()


@pytest.mark.parametrize(
    ("fields", "size", "method"),
    [
        ({}, 32, "nearest"),
        ({"preprocessing": "caffe", "batch_norm": False}, 32, "nearest"),
        ({"preprocessing": "caffe", "pooling": "avg"}, 64, "bicubic"),
        ({"preprocessing": "unit", "head_units": (8, 6)}, 64, "bilinear"),
        ({"head_pooling": "flatten", "input_size": 64}, 64, "nearest"),
    ],
)
def test_a_folded_network_says_what_the_network_says(
    split, fields, size, method
):
    network = randomized(vgg.vgg16(width=0.0625, **fields))
    resize = resize_lib.make_resize(size, method=method)
    images = split.images[:8]
    tell_apart(network, resize, images)
    folded = export.fold(network, size=size, method=method)
    expected = probabilities(network, resize, images)
    np.testing.assert_allclose(folded(images), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.1, "all images look the same"
    own = {type(layer).__module__.partition(".")[0] for layer in folded.layers}
    assert own == {"keras"}
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert not {k for k in kinds if "BatchNorm" in k}
    assert folded.input.dtype == "uint8"


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """Returns a copy of a finished run that the command has exported."""
    workdir = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(trained_run, workdir)
    done = run_job("--mode=export", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert f"{workdir}/export: saved_model, model.keras" in done.stdout
    return workdir


def test_client_gets_the_scores_of_the_evaluation(exported, tmp_path):
    config = smoke.get_config()
    test = build.load_data(config).test
    np.save(tmp_path / "images.npy", test.images)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [
            *(sys.executable, "-I", "-c", CLIENT, exported / "export"),
            *(tmp_path / "images.npy", tmp_path / "answers.npz"),
        ],
        cwd=tmp_path,
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        check=True,
        capture_output=True,
    )
    answers = np.load(tmp_path / "answers.npz")
    result = json.loads((exported / "result.json").read_text())
    kept = predictions.load(exported / PREDICTIONS)
    for name in ("by_signature", "by_keras"):
        said = answers[name]
        accuracy = (said.argmax(1) == test.labels).mean()
        assert accuracy == pytest.approx(result["test_accuracy"]), name
        np.testing.assert_allclose(said, kept.probabilities, atol=1e-5)
    np.testing.assert_array_equal(kept.labels, test.labels)
    assert kept.accuracy == pytest.approx(result["test_accuracy"])


@pytest.mark.faults
def test_a_run_in_a_bucket_is_exported_to_the_bucket(trained_run, bucket):
    for path in trained_run.rglob("*"):
        if path.is_file():
            name = path.relative_to(trained_run).as_posix()
            bucket.put(name, path.read_bytes())
    done = run_job("--mode=export", f"--workdir={bucket.url}")
    assert done.returncode == 0, done.stderr
    assert f"{bucket.url}/export: saved_model" in done.stdout
    there = bucket.files()
    assert {
        "export/README.md",
        "export/model.keras",
        "export/saved_model/saved_model.pb",
        "export/saved_model/variables/variables.index",
    } <= there.keys()


def test_the_export_has_a_model_card(exported):
    text = (exported / "export" / export.CARD).read_text()
    result = json.loads((exported / "result.json").read_text())
    assert f"{100 * result['test_accuracy']:.2f}%" in text
    assert "The images are synthetic, not CIFAR-10" in text
    assert "{difference}" not in text
    assert float(text.partition("checkpoint | ")[2].partition(" ")[0]) < 1e-5
    folder = exported / "export"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert sorted(p.name for p in exported.iterdir() if "export" in p.name) == [
        "export"
    ]


def test_export_that_differs_is_not_published(split, tmp_path):
    folder = tmp_path / "export"
    network = randomized(vgg.vgg16(width=0.0625))
    resize = resize_lib.make_resize(64, method="nearest")
    tell_apart(network, resize, split.images[:8])
    folder.mkdir()
    (folder / "old").touch()
    first = export.export(network, resize, folder, "first", method="nearest")
    assert not (folder / "old").exists()
    assert 0 <= first <= export.TOLERANCE
    # The resize differs from that of the network.
    with pytest.raises(errors.JobError, match="saved_model: a probability"):
        export.export(network, resize, folder, "second", method="bilinear")
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    assert (folder / export.CARD).read_text() == "first"
    # This is the state after a kill between two renames.
    (tmp_path / ".export-killed").mkdir()
    folder.rename(tmp_path / ".export-killed-old")
    with pytest.raises(errors.JobError, match="saved_model: a probability"):
        export.export(network, resize, folder, "third", method="bilinear")
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    assert (folder / export.CARD).read_text() == "first"


def test_weights_are_those_that_were_evaluated(trained_run, tmp_path):
    trained = trained_lib.load_trained(Workdir(trained_run))
    assert trained.step == 20
    assert trained.class_names == tuple(synthetic.SHAPES)
    test = build.load_data(trained.config).test
    said = probabilities(trained.network, trained.resize, test.images)
    kept = predictions.load(trained_run / PREDICTIONS)
    np.testing.assert_allclose(said, kept.probabilities, atol=1e-6)
    # The weights of an unfinished run are exported with a note.
    workdir = tmp_path / "run"
    shutil.copytree(trained_run, workdir)
    (workdir / "result.json").unlink()
    (workdir / "checkpoints/step-00000020.safetensors").unlink()
    unfinished = trained_lib.load_trained(Workdir(workdir))
    assert unfinished.step == 15
    text = card.write(
        run_lib.read(Workdir(workdir)), step=15, class_names=(), crc32c=""
    )
    assert "not finished. These are the weights of step 15" in text


def test_a_run_without_a_checkpoint_cannot_be_exported(trained_run, tmp_path):
    with pytest.raises(errors.ConfigError, match=r"no config\.json"):
        trained_lib.load_trained(Workdir(tmp_path))
    shutil.copy(trained_run / "config.json", tmp_path)
    with pytest.raises(errors.ResumeError, match="no checkpoint yet"):
        trained_lib.load_trained(Workdir(tmp_path))
    workdir = tmp_path / "run"
    shutil.copytree(trained_run, workdir)
    saved = json.loads((workdir / "config.json").read_text())
    saved["model"]["width"] = 0.125
    (workdir / "config.json").write_text(json.dumps(saved))
    with pytest.raises(errors.ResumeError, match=r"model\.width"):
        trained_lib.load_trained(Workdir(workdir))


def test_network_of_every_config_can_be_folded():
    # This config has all types of layers.
    config = default.get_config().unlock()
    config.model.width = 0.0625
    network = build.create_model(config, "float32", num_classes=10)
    folded = export.fold(network, size=32, method="bilinear")
    assert folded.output.shape == (None, 10)
    assert len(folded.weights) == 2 * 14  # Each layer has a kernel and a bias.
    assert pathlib.Path(export.KERAS).suffix == ".keras"


def test_a_run_ends_well_without_its_page_and_is_scored_once(
    tmp_path, monkeypatch, caplog
):
    def fail(*args, **kwargs):
        raise OSError("no room\nat all")

    calls = []
    plain = evaluate.Evaluator.__call__

    def counted(self, *args, **kwargs):
        calls.append(kwargs["tta"])
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(evaluate.Evaluator, "__call__", counted)
    monkeypatch.setattr(page, "write", fail)
    monkeypatch.setattr(predictions.Predictions, "save", fail)
    config = smoke.get_config().unlock()
    config.steps, config.model.width = 1, 0.0625
    config.data.synthetic_train_images = 64
    config.data.synthetic_test_images = 10
    with caplog.at_level("WARNING"):
        result = train.train_and_evaluate(
            config, Workdir(tmp_path), preemption.StopRequest()
        )
    assert calls == [True]
    assert result["test_accuracy_tta"] is not None
    assert json.loads((tmp_path / "result.json").read_text()) == result
    said = [r.message for r in caplog.records if "Skipped" in r.message]
    assert said == [
        "Skipped writing predictions.npz (OSError: no room)",
        "Skipped writing report.html (OSError: no room)",
    ]
