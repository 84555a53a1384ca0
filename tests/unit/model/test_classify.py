"""Image files of all kinds, and what a network says of them."""

import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from job import errors
from job.data import dataset, image_file
from job.model import classify, vgg
from job.model import resize as resize_lib
from tests.support.jobs import run_job


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def test_a_picture_of_32_pixels_is_returned_as_it_is(pixels):
    found = image_file.decode(encode(Image.fromarray(pixels)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_others_are_their_middle_square_scaled(pixels):
    wide = np.zeros((320, 640, 3), np.uint8)
    wide[:, 160:480] = pixels.repeat(10, 0).repeat(10, 1)
    found = image_file.decode(encode(Image.fromarray(wide)))
    middle = Image.fromarray(wide[:, 160:480])
    expected = middle.resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(expected))
    flat = np.full((50, 47, 3), (10, 200, 90), np.uint8)
    found = image_file.decode(encode(Image.fromarray(flat)))
    assert (found == (10, 200, 90)).all()
    assert image_file.decode(encode(Image.new("L", (1, 900)))).shape == (
        *(32, 32, 3),
    )


def test_every_kind_of_pixel_becomes_rgb(pixels):
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(
        image_file.decode(encode(deep)), np.stack([grey] * 3, -1)
    )
    alpha = image.convert("RGBA")
    alpha.putalpha(0)
    assert (image_file.decode(encode(alpha)) == 255).all()
    for mode in ("1", "L", "LA", "P", "RGBA"):
        found = image_file.decode(encode(image.convert(mode)))
        assert found.shape == (32, 32, 3), mode
    flat = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    red = image_file.decode(encode(flat, "JPEG"))
    np.testing.assert_allclose(red.mean((0, 1)), (254, 0, 0), atol=4)
    # A camera on its side: the file says so.
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image_file.decode(encode(image, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))
    frames = [image, Image.new("RGB", (32, 32))]
    moving = encode(frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(image_file.decode(moving), pixels)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no PNG or JPEG"),
        (b"not an image", "no PNG or JPEG"),
        (encode(Image.new("RGB", (9, 9)), "GIF"), "no PNG or JPEG"),
        (encode(Image.new("RGB", (99, 99), "red"), "JPEG")[:400], "damaged"),
        (encode(Image.effect_noise((64, 64), 9))[:900], "damaged"),
        (encode(Image.new("1", (10_000, 9_000))), "pixels"),
        (encode(Image.new("1", (20_000, 18_000))), "pixels"),
    ],
)
def test_what_is_no_image_is_said(content, said):
    with pytest.raises(errors.DataError, match=said):
        image_file.decode(content)


def test_files_and_folders_are_found_in_order(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("z.png", "b/a.JPG", "b/c/x.jpeg", "b/notes.txt", "odd.bin"):
        (tmp_path / name).write_bytes(b"x")
    found = image_file.find([f"{tmp_path}/odd.bin", str(tmp_path)])
    names = [one.name.removeprefix(f"{tmp_path}/") for one in found]
    assert names == ["odd.bin", "b/a.JPG", "b/c/x.jpeg", "z.png"]
    assert found[1].read() == b"x"
    for name, said in (
        ("none.png", "no such path"),
        ("empty", "none of the 0 files"),
    ):
        with pytest.raises(errors.DataError, match=said):
            image_file.find([f"{tmp_path}/{name}"])
    with pytest.raises(errors.DataError, match="gs://BUCKET/PATH"):
        image_file.find(["http://host/cat.png"])
    (tmp_path / "z.png").unlink()
    with pytest.raises(errors.DataError, match="No such file"):
        found[3].read()


def test_objects_and_folders_of_a_bucket_are_found(bucket, pixels):
    picture = encode(Image.fromarray(pixels))
    bucket.put("photos/b.png", picture)
    bucket.put("photos/a.jpg", b"x")
    bucket.put("photos/notes.txt", b"x")
    folder = f"{bucket.url}/photos"
    found = image_file.find([folder, f"{folder}/b.png"])
    names = [one.name.removeprefix(f"{bucket.url}/") for one in found]
    assert names == ["photos/a.jpg", "photos/b.png", "photos/b.png"]
    np.testing.assert_array_equal(image_file.decode(found[2].read()), pixels)
    with pytest.raises(errors.DataError, match="no such object"):
        image_file.find([f"{folder}/c.png"])
    bucket.remove("photos/b.png")
    with pytest.raises(errors.DataError, match="is not there"):
        found[1].read()


def test_answers_are_the_networks_and_one_bad_file_spoils_none(
    split, monkeypatch
):
    monkeypatch.setattr(classify, "_BATCH", 4)
    network = vgg.vgg16(width=0.0625, init="torch")
    resize = resize_lib.make_resize(32, method="nearest")
    contents = [encode(Image.fromarray(image)) for image in split.images[:9]]
    contents.insert(5, b"broken")
    inputs = [
        image_file.Input(str(n), lambda content=content: content)
        for n, content in enumerate(contents)
    ]
    names = dataset.CLASS_NAMES
    answers = list(classify.predict(inputs, network, resize, names))
    assert [a.name for a in answers] == [str(n) for n in range(10)]
    bad = answers.pop(5)
    assert (bad.top, bad.error) == ((), "it is no PNG or JPEG image")
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
    assert rows[1] == "5          not read: it is no PNG or JPEG image"


def test_the_command_answers_and_ends_with_3_where_a_file_is_bad(
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
        "error": "it is no PNG or JPEG image",
    }
    assert done.returncode == 3
    assert "data error: 1 of 2 files" in done.stderr.splitlines()[-1]
    assert "not finished: these are the weights of step 20" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "--input is missing"),
        (("--input=nosuch.png",), 3, "no such path"),
        (("--input=x", "--format=xml"), 2, "xml"),
    ],
)
def test_wrong_flags_are_said_before_anything_slow(
    trained_run, args, code, said
):
    done = run_job("--mode=predict", f"--workdir={trained_run}", *args)
    (line,) = done.stderr.strip().splitlines()
    assert (done.returncode, said in line) == (code, True), line
