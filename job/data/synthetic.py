"""Synthetic images of ten shapes, for a first run without network and data.

    draw(8000, 2000, seed=0)   # Dataset; takes about 3 s

Each image has one shape with random position, rotation, size and color. The
background has two colors and a ripple. A smaller blob, uneven light and noise
are added. Color, position and brightness are independent of the class, so a
network has to learn form. With few images it overfits without augmentation, and
it starts slowly without normalization.
"""

from collections.abc import Callable

import numpy as np

from job.data import dataset

_Grid = np.ndarray  # float32 [n, 32, 32]
_Shape = Callable[[_Grid, _Grid], _Grid]


def draw(
    train_images: int,
    test_images: int,
    seed: int = 0,
    poll: Callable[[], None] = lambda: None,
) -> dataset.Dataset:
    """Returns a synthetic data set, a pure function of the arguments.

    Args:
      train_images: Number of training images.
      test_images: Number of test images.
      seed: Seed of the images.
      poll: Function called every 500 images. Its exceptions propagate.
    """
    root = np.random.SeedSequence([seed, 0x5348])
    train_seed, test_seed = root.spawn(2)
    return dataset.Dataset(
        train=_draw_split(
            train_images, np.random.default_rng(train_seed), poll
        ),
        test=_draw_split(test_images, np.random.default_rng(test_seed), poll),
        source="synthetic",
        class_names=tuple(SHAPES),
    )


def _draw_split(
    count: int, rng: np.random.Generator, poll: Callable[[], None]
) -> dataset.Split:
    labels = rng.permutation(np.arange(count, dtype=np.int32) % len(SHAPES))
    size = dataset.IMAGE_SIZE
    images = np.empty((count, size, size, 3), np.uint8)
    for label, shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(labels == label)
        for part in np.array_split(rows, max(1, len(rows) // 500)):
            poll()
            images[part] = _draw_images(len(part), shape, rng)
    return dataset.Split(images, labels)


def _draw_images(n: int, shape: _Shape, rng: np.random.Generator) -> np.ndarray:
    """Returns uint8 [n, 32, 32, 3] of one class."""

    def uniform(low: float, high: float, *dims: int) -> np.ndarray:
        return rng.uniform(low, high, (n, *dims)).astype(np.float32)

    axis = (np.arange(dataset.IMAGE_SIZE, dtype=np.float32) - 15.5) / 16
    y, x = np.broadcast_arrays(axis[None, :, None], axis[None, None, :])

    def placed(reach: float, low: float, high: float) -> tuple[_Grid, _Grid]:
        angle = uniform(-0.6, 0.6, 1, 1)
        scale, stretch = uniform(low, high, 1, 1), uniform(0.8, 1.25, 1, 1)
        u, v = (
            x - uniform(-reach, reach, 1, 1),
            y - uniform(-reach, reach, 1, 1),
        )
        c, s = np.cos(angle), np.sin(angle)
        return (c * u + s * v) / (scale * stretch), (
            c * v - s * u
        ) * stretch / scale

    def cover(distance: _Grid, softness: float) -> np.ndarray:
        return (
            1 / (1 + np.exp(np.clip(distance / softness, -30, 30)))[..., None]
        )

    colors = uniform(0.1, 0.9, 4, 3)
    # The shape is lighter or darker than the background, by a margin.
    tone = np.where(uniform(0, 1, 1) < 0.5, 1, -1) * uniform(0.18, 0.5, 1)
    ink = colors[:, 0] * 0.5 + colors[:, 1] * 0.5 + tone

    u, v = placed(0.3, 0.9, 1.1)
    ripple = np.sin(u * uniform(2, 14, 1, 1) + uniform(0, 6.3, 1, 1))[..., None]
    mix = 0.5 + 0.35 * ripple + 0.15 * v[..., None]
    image = colors[:, None, None, 0] * mix + colors[:, None, None, 1] * (
        1 - mix
    )
    image = 0.7 * image + 0.3 * image.mean((1, 2), keepdims=True)
    inside = cover(shape(*placed(0.3, 0.4, 0.75)), 0.06)
    image += (ink[:, None, None] - image) * inside * uniform(0.6, 1, 1, 1, 1)
    u, v = placed(0.9, 0.12, 0.3)
    blob = cover(np.hypot(u, v) - 1, 0.1)
    image += (colors[:, None, None, 3] - image) * blob
    u, v = placed(0.5, 0.8, 1.2)
    image *= 1 + 0.3 * u[..., None] * uniform(-1, 1, 1, 1, 1)
    image += rng.normal(0, 0.06, image.shape).astype(np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


# These are approximate signed distances, negative inside and about 1 across.


def _disc(u: _Grid, v: _Grid) -> _Grid:
    return np.hypot(u, v) - 0.85


def _ring(u: _Grid, v: _Grid) -> _Grid:
    return np.abs(np.hypot(u, v) - 0.7) - 0.2


def _crescent(u: _Grid, v: _Grid) -> _Grid:
    return np.maximum(np.hypot(u, v) - 0.9, 0.75 - np.hypot(u - 0.45, v))


def _square(u: _Grid, v: _Grid) -> _Grid:
    return np.maximum(np.abs(u), np.abs(v)) - 0.75


def _frame(u: _Grid, v: _Grid) -> _Grid:
    return np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.65) - 0.18


def _triangle(u: _Grid, v: _Grid) -> _Grid:
    return np.maximum(np.abs(u) * 0.87 - v * 0.5, v) - 0.5


def _cross(u: _Grid, v: _Grid) -> _Grid:
    long, short = (
        np.maximum(np.abs(u), np.abs(v)),
        np.minimum(np.abs(u), np.abs(v)),
    )
    return np.maximum(long - 0.95, short - 0.27)


def _star(u: _Grid, v: _Grid) -> _Grid:
    return np.hypot(u, v) - 0.65 - 0.3 * np.cos(5 * np.arctan2(u, -v))


def _bars(u: _Grid, v: _Grid) -> _Grid:
    return np.maximum(
        np.maximum(np.abs(u), np.abs(v)) - 0.85, 0.17 - np.abs(np.abs(v) - 0.43)
    )


def _pair(u: _Grid, v: _Grid) -> _Grid:
    return np.hypot(np.abs(u) - 0.5, v) - 0.42


SHAPES: dict[str, _Shape] = {
    "disc": _disc,
    "ring": _ring,
    "crescent": _crescent,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "bars": _bars,
    "pair": _pair,
}
