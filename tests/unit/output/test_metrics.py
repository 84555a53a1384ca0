"""Tests of the metrics log, with each step exactly once."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from job.output import metrics
from job.storage.workdir import EVENTS, METRICS


def line(step, split="train", loss=1.0):
    return {"step": step, "split": split, "loss": loss}


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    log = metrics.MetricsLog(tmp_path, first_step=0)
    for step in (5, 10, 15):
        log.write(line(step))
    log.close()
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 20, "split": "tr')  # A kill during a write.
    log = metrics.MetricsLog(tmp_path, first_step=10)
    log.write(line(15, loss=2.0))
    log.close()
    assert metrics.read(tmp_path) == [line(5), line(10), line(15, loss=2.0)]
    for text in (tmp_path / METRICS).read_text().splitlines():
        json.loads(text)


@pytest.mark.parametrize("junk", [b"5", b'{"a": 1}', b"\xff\xfe", b"{"])
def test_invalid_line_ends_the_metrics_log(tmp_path, junk):
    good = json.dumps(line(5)).encode()
    (tmp_path / METRICS).write_bytes(good + b"\n" + junk + b"\n" + good)
    assert metrics.read(tmp_path) == [line(5)]


def test_events_are_rebuilt_from_the_metrics_log(tmp_path):
    for first_step in (0, 5):
        log = metrics.MetricsLog(tmp_path, first_step=first_step)
        log.write(line(first_step + 5, loss=None if first_step else 1.5))
        log.close()
    (path,) = (tmp_path / EVENTS).glob("*.tfevents.*")
    found = [
        (value.tag, event.step)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    assert found == [("train/loss", 5)]


def test_tensorboard_gets_config_and_image(tmp_path):
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    path = tmp_path / "augmentation.png"
    path.write_bytes(tf.io.encode_png(image).numpy())
    hparams = {"seed": 3, "model.width": 0.5, "model.head_units": [4, 5]}
    log = metrics.MetricsLog(
        tmp_path, first_step=0, hparams=hparams, picture=path
    )
    log.write(line(5))
    log.close()
    (path,) = (tmp_path / EVENTS).glob("*.tfevents.*")
    found = {
        value.tag: value
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    shown = tf.io.decode_png(found["augmentation"].tensor.string_val[2])
    np.testing.assert_array_equal(shown, image)
    told = found["_hparams_/session_start_info"].metadata.plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(told)
    values = started.session_start_info.hparams
    assert values["seed"].number_value == 3
    assert values["model.width"].number_value == 0.5
    assert values["model.head_units"].string_value == "[4, 5]"
    assert "train/loss" in found
