"""Tests of AutoAugment and RandAugment against Pillow and SciPy."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from job.augment import policies

RNG = np.random.default_rng(2)
COUNT = 48


def random_images(count=COUNT):
    """Returns varied images, uint8 [count, 32, 32, 3]."""
    images = RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    ramp = np.linspace(0, 1, 32)[None, :, None, None]
    low, high = RNG.integers(0, 256, (2, count, 1, 1, 3))
    smooth = (low + (high - low) * ramp).astype(np.uint8)
    images[1::4] = np.broadcast_to(smooth, images.shape)[1::4]
    images[2::4] = images[2::4] // 64 * 50 + 20
    images[3] = 77
    return images


def pillow(image, name, value):
    """Applies one operation with Pillow, as AutoAugment's authors do."""
    image = Image.fromarray(image)

    def affine(*coefficients):
        return image.transform(image.size, Image.Transform.AFFINE, coefficients)

    operations = {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, value, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, value, 1, 0),
        "translate_x": lambda: affine(1, 0, value, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, value),
        "rotate": lambda: image.rotate(value),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(value),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(value),
        "color": lambda: ImageEnhance.Color(image).enhance(value),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(value),
        "posterize": lambda: ImageOps.posterize(image, value),
        "solarize": lambda: ImageOps.solarize(image, value),
        "invert": lambda: ImageOps.invert(image),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }
    return np.asarray(operations[name]())


VALUES = {
    "identity": lambda: 0,
    "shear_x": lambda: RNG.uniform(-0.4, 0.4),
    "shear_y": lambda: RNG.uniform(-0.4, 0.4),
    "translate_x": lambda: int(RNG.integers(-20, 21)),
    "translate_y": lambda: int(RNG.integers(-20, 21)),
    "rotate": lambda: RNG.uniform(-50, 50),
    "brightness": lambda: RNG.uniform(0, 2.5),
    "contrast": lambda: RNG.uniform(0, 2.5),
    "color": lambda: RNG.uniform(0, 2.5),
    "sharpness": lambda: RNG.uniform(0, 2.5),
    "posterize": lambda: int(RNG.integers(1, 9)),
    "solarize": lambda: int(RNG.integers(0, 257)),
    "invert": lambda: 0,
    "autocontrast": lambda: 0,
    "equalize": lambda: 0,
}
WARPS = ("shear_x", "shear_y", "rotate")

apply = tf.function(policies.apply)


def ours(images, *stages, fill="zero"):
    rows = [tf.constant(np.stack(stage)) for stage in stages]
    changed = apply(tf.constant(images, tf.float32), rows, fill=fill).numpy()
    assert changed.min() >= 0
    assert changed.max() <= 255
    np.testing.assert_array_equal(changed, np.round(changed))
    return changed.astype(np.uint8)


def assert_alike(got, wanted, *, places=0.0, off_by_one=0.0):
    """Compares images, with a tolerated fraction of different pixels."""
    apart = np.abs(got.astype(int) - wanted.astype(int))
    assert (apart > 1).any(-1).mean() <= places
    assert (apart == 1).mean() <= max(places, off_by_one)


@pytest.mark.parametrize("name", VALUES)
def test_every_operation_equals_pillow(name):
    images = random_images()
    values = [VALUES[name]() for _ in images]
    got = ours(images, [policies.row(name, v) for v in values])
    wanted = [pillow(i, name, v) for i, v in zip(images, values, strict=True)]
    if name != "identity":
        assert (got != images).any()
    # Pillow rotates in steps of 1 / 65536 pixel, and its autocontrast truncates
    # 254.99999 to 254.
    assert_alike(
        got,
        np.stack(wanted),
        places=2e-4 if name in WARPS else 0,
        off_by_one=5e-3 if name == "autocontrast" else 0,
    )


def test_two_operations_equal_pillow():
    images = random_images(256)
    names = RNG.choice(list(VALUES), (2, len(images)))
    values = [[VALUES[n]() for n in stage] for stage in names]
    rows = [
        [policies.row(n, v) for n, v in zip(*stage, strict=True)]
        for stage in zip(names, values, strict=True)
    ]
    got = ours(images, *rows)
    wanted = []
    for i, image in enumerate(images):
        for stage in range(2):
            image = pillow(image, names[stage][i], values[stage][i])
        wanted.append(image)
    # A single pixel that is rounded differently may shift a histogram.
    same = (got == np.stack(wanted)).all(axis=(1, 2, 3)).mean()
    assert same > 0.93
    assert_alike(got, np.stack(wanted), places=5e-3, off_by_one=5e-3)


@pytest.mark.parametrize(
    ("fill", "mode"), [("nearest", "nearest"), ("reflect", "mirror")]
)
@pytest.mark.parametrize("name", ["shear_x", "translate_y", "rotate"])
def test_outside_pixels_equal_scipy(name, fill, mode):
    images = random_images()
    rows = [policies.row(name, VALUES[name]()) for _ in images]
    wanted = []
    for image, made in zip(images, rows, strict=True):
        matrix = made[:6].reshape(2, 3).astype(np.float64)
        channels = [
            scipy.ndimage.affine_transform(
                image[..., c], matrix[:, :2], matrix[:, 2], order=0, mode=mode
            )
            for c in range(3)
        ]
        wanted.append(np.stack(channels, axis=-1))
    got = ours(images, rows, fill=fill)
    assert_alike(got, np.stack(wanted), places=1e-3)


# Ranges of torchvision.transforms.AutoAugment.
LEVELS = {
    "shear_x": np.linspace(0, 0.3, 10),
    "shear_y": np.linspace(0, 0.3, 10),
    "translate_x": np.linspace(0, 150 / 331 * 32, 10),
    "translate_y": np.linspace(0, 150 / 331 * 32, 10),
    "rotate": np.linspace(0, 30, 10),
    "brightness": np.linspace(0, 0.9, 10),
    "contrast": np.linspace(0, 0.9, 10),
    "color": np.linspace(0, 0.9, 10),
    "sharpness": np.linspace(0, 0.9, 10),
    "posterize": 8 - np.round(np.arange(10) / (9 / 4)).astype(int),
    "solarize": np.linspace(255, 0, 10),
}


def value_of(name, level, sign):
    if name not in LEVELS:
        return 0
    value = LEVELS[name][level]
    if name in ("posterize", "solarize"):
        return value
    value *= sign
    if name.startswith("translate"):
        return int(value)
    return value if name in WARPS else 1 + value


def test_autoaugment_applies_25_sub_policies_per_image():
    images = random_images(400)
    drawn = RNG.random((len(images), 5)).astype(np.float32)
    got = policies.apply_autoaugment(
        tf.constant(images, tf.float32),
        tf.constant(drawn),
        share=1.0,
        fill="zero",
    ).numpy()
    wanted, seen = [], set()
    for image, numbers in zip(images, drawn, strict=True):
        chosen = int(numbers[0] * 25)
        for k, (name, chance, level) in enumerate(policies.AUTOAUGMENT[chosen]):
            if numbers[3 + k] < np.float32(chance):
                sign = -1 if numbers[1 + k] < 0.5 else 1
                image = pillow(image, name, value_of(name, level, sign))
                seen.add((name, sign))
        wanted.append(image)
    assert len({name for name, _ in seen}) >= 12
    assert_alike(got, np.stack(wanted), places=5e-3, off_by_one=5e-3)


def test_autoaugment_changes_the_configured_fraction():
    images = tf.constant(random_images(2000), tf.float32)
    drawn = RNG.random((2000, 5)).astype(np.float32)
    drawn[:, 3:] = 0  # Operations with a probability above 0 are applied.
    changed = []
    for share in (1.0, 0.25):
        got = policies.apply_autoaugment(
            images, tf.constant(drawn), share=share, fill="zero"
        )
        changed.append((got != images).numpy().any(axis=(1, 2, 3)).mean())
    assert changed[0] > 0.9
    assert 0.2 < changed[1] / changed[0] < 0.3


def test_randaugment_grows_with_its_magnitude():
    names = policies.RANDAUGMENT
    for magnitude in (2.5, 10.0):
        made = policies.randaugment_policy(magnitude, 32, 32)
        assert made.rows.shape == (2, 14, 2, 15)
        assert (made.probability == 1).all()
        for name, both in zip(names, made.rows[0], strict=True):
            for sign, got in zip((-1, 1), both, strict=True):
                value = {
                    "posterize": 8 - round(0.4 * magnitude),
                    "solarize": 25.5 * (10 - magnitude),
                }.get(name)
                if value is None:
                    value = value_of(name, 9, sign)
                    center = float(name in policies.BLENDS)
                    value = center + (value - center) * magnitude / 10
                    if name.startswith("translate"):
                        value = int(sign * magnitude / 10 * 150 / 331 * 32)
                np.testing.assert_allclose(
                    got, policies.row(name, value), rtol=1e-6, err_msg=name
                )


def test_randaugment_draws_every_operation_twice():
    images = random_images(1000)
    drawn = RNG.random((1000, 4)).astype(np.float32)
    got = policies.apply_randaugment(
        tf.constant(images, tf.float32),
        tf.constant(drawn),
        magnitude=10.0,
        fill="zero",
    ).numpy()
    made = policies.randaugment_policy(10.0, 32, 32)
    chosen, signs = (
        (drawn[:, :2] * 14).astype(int),
        (drawn[:, 2:] * 2).astype(int),
    )
    rows = [made.rows[k][chosen[:, k], signs[:, k]] for k in range(2)]
    assert set(chosen.ravel()) == set(range(14))
    np.testing.assert_array_equal(got, ours(images, *rows))


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="unknown operation 'blur'"):
        policies.row("blur", 1)
