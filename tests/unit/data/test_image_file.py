"""Image files of all kinds, in folders and buckets."""

import numpy as np
import pytest
from PIL import Image

from job import errors
from job.data import image_file
from tests.support.images import encode


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def test_an_image_of_32_pixels_is_unchanged(pixels):
    found = image_file.decode(encode(Image.fromarray(pixels)))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_the_central_square_of_other_images_is_scaled(pixels):
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
    gray = np.asarray(image.convert("L"))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    np.testing.assert_array_equal(
        image_file.decode(encode(deep)), np.stack([gray] * 3, -1)
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
    # The file records a rotated camera.
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
        (b"", "not a PNG or JPEG"),
        (b"not an image", "not a PNG or JPEG"),
        (encode(Image.new("RGB", (9, 9)), "GIF"), "not a PNG or JPEG"),
        (encode(Image.new("RGB", (99, 99), "red"), "JPEG")[:400], "damaged"),
        (encode(Image.effect_noise((64, 64), 9))[:900], "damaged"),
        (encode(Image.new("1", (10_000, 9_000))), "pixels"),
        (encode(Image.new("1", (20_000, 18_000))), "pixels"),
    ],
)
def test_a_file_that_is_not_an_image_is_reported(content, said):
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
        ("none.png", "the path does not exist"),
        ("empty", "none of 0 files"),
    ):
        with pytest.raises(errors.DataError, match=said):
            image_file.find([f"{tmp_path}/{name}"])
    with pytest.raises(errors.DataError, match="gs://BUCKET/PATH"):
        image_file.find(["http://host/cat.png"])
    (tmp_path / "z.png").unlink()
    with pytest.raises(errors.DataError, match="the file does not exist"):
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
    with pytest.raises(
        errors.DataError, match="object or folder does not exist"
    ):
        image_file.find([f"{folder}/c.png"])
    bucket.remove("photos/b.png")
    with pytest.raises(errors.DataError, match="the object does not exist"):
        found[1].read()
