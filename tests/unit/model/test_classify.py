"""Tests of the classification of image files."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from job.data import dataset, image_file
from job.model import classify, vgg
from job.model import resize as resize_lib
from tests.support.images import encode
from tests.support.jobs import run_job


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def test_answers_equal_the_network_despite_an_unreadable_file(split):
    network = vgg.vgg16(width=0.0625, init="torch")
    resize = resize_lib.make_resize(32, method="nearest")
    contents = [encode(Image.fromarray(image)) for image in split.images[:9]]
    contents.insert(5, b"broken")
    inputs = [
        image_file.Input(str(n), lambda content=content: content)
        for n, content in enumerate(contents)
    ]
    names = dataset.CLASS_NAMES
    answers = list(
        classify.predict(inputs, network, resize, names, batch_at_32=4)
    )
    assert [a.name for a in answers] == [str(n) for n in range(10)]
    bad = answers.pop(5)
    assert (bad.top, bad.error) == ((), "the file is not a PNG or JPEG image")
    images = tf.constant(split.images[:9])
    said = tf.nn.softmax(network(images, training=False)[0]).numpy()
    for answer, expected in zip(answers, said, strict=True):
        order = expected.argsort()[::-1][:3]
        assert [name for name, _ in answer.top] == [names[i] for i in order]
        np.testing.assert_allclose(
            [p for _, p in answer.top], expected[order], atol=1e-6
        )
    line = json.loads(classify.to_json(answers[0]))
    assert line["top"][0]["class"] == answers[0].top[0][0]
    assert json.loads(classify.to_json(bad))["error"] == bad.error
    rows = [classify.to_row(answer, 9) for answer in (answers[0], bad)]
    assert rows[0].startswith("0          ")
    assert "%" in rows[0]
    assert rows[1] == "5          not read: the file is not a PNG or JPEG image"


def test_command_answers_and_exits_with_3_for_an_unreadable_file(
    trained_run, tmp_path, pixels
):
    workdir = tmp_path / "run"
    shutil.copytree(trained_run, workdir)
    (workdir / "result.json").unlink()
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode(Image.fromarray(pixels)))
    (folder / "b.jpg").write_bytes(b"broken")
    done = run_job(
        *("--mode=predict", f"--workdir={workdir}"),
        *(f"--input={folder}", "--format=jsonl"),
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert len(first["top"]) == 3
    assert sum(one["probability"] for one in first["top"]) <= 1.0001
    assert second == {
        "input": f"{folder}/b.jpg",
        "error": "the file is not a PNG or JPEG image",
    }
    assert done.returncode == 3
    assert "1 of 2 files could not be read" in done.stderr.splitlines()[-1]
    assert "Using the weights of step 20 of an unfinished run" in done.stderr
    assert "this network was trained on synthetic images" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "--input is missing"),
        (("--input=nosuch.png",), 3, "the path does not exist"),
        (("--input=x", "--format=xml"), 2, "xml"),
    ],
)
def test_wrong_flags_end_before_slow_imports(trained_run, args, code, said):
    done = run_job("--mode=predict", f"--workdir={trained_run}", *args)
    (line,) = done.stderr.strip().splitlines()
    assert (done.returncode, said in line) == (code, True), line
