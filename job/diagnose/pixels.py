"""Readings of images by the scale, channel order and layout of the pixels.

    Reading("unit").apply(images)               # divided by 255
    Reading("caffe", bgr=True).apply(images)    # as ImageNet's VGG16 expects

A model expects the reading that it was trained on.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from job.model.vgg import PREPROCESSING

_Array = npt.NDArray

# Name -> description, mean in the order of RGB, divisor.
SCALES: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "raw": ("0 to 255", (0.0,), (1.0,)),
    "unit": ("divided by 255", (0.0,), (255.0,)),
    "symmetric": ("from -1 to 1", (127.5,), (127.5,)),
    "standardize": (
        "standardized by channel",
        tuple(PREPROCESSING["standardize"][0]),
        tuple(PREPROCESSING["standardize"][1]),
    ),
    "caffe": (
        "with ImageNet's mean subtracted",
        tuple(PREPROCESSING["caffe"][0][::-1]),
        (1.0,),
    ),
    "twice": ("divided by 255 twice", (0.0,), (255.0**2,)),
}

# Name -> description. Files store images with the channels first, and
# `reshaped` images lack the transpose that this layout needs.
LAYOUTS = {
    "": "unchanged",
    "reshaped": "reshaped instead of transposed",
    "transposed": "with rows and columns exchanged",
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """Scale, channel order and layout of the pixels of an image.

    Attributes:
      scale: Key of `SCALES`.
      bgr: Whether the channels are in the order BGR.
      layout: Key of `LAYOUTS`.
    """

    scale: str = "raw"
    bgr: bool = False
    layout: str = ""

    def __str__(self) -> str:
        """Returns the reading as text."""
        text = f"{'BGR' if self.bgr else 'RGB'}, {SCALES[self.scale][0]}"
        return text + (f", {LAYOUTS[self.layout]}" if self.layout else "")

    def apply(self, images: _Array) -> _Array:
        """Returns images in this reading, float32 [n, h, w, 3].

        Args:
          images: RGB images, 0 to 255, of any number type, [n, h, w, 3].
        """
        _, mean, divisor = SCALES[self.scale]
        scaled: _Array = images.astype(np.float32)
        scaled = (scaled - np.asarray(mean, np.float32)) / np.asarray(
            divisor, np.float32
        )
        if self.bgr:
            scaled = scaled[..., ::-1]
        if self.layout == "reshaped":
            scaled = scaled.transpose(0, 3, 1, 2).reshape(scaled.shape)
        elif self.layout == "transposed":
            scaled = scaled.transpose(0, 2, 1, 3)
        return np.ascontiguousarray(scaled, np.float32)


def own_reading(scale: str) -> Reading:
    """Returns the usual reading of images on a scale.

    Args:
      scale: Key of `SCALES`. With "caffe" the channels are reversed.
    """
    return Reading(scale, bgr=scale == "caffe")
