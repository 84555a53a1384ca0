"""Scales of pixels, in NumPy: the preprocessing that a model may expect.

    scale(images, "caffe")      # float32, as ImageNet's VGG16 expects them

`SCALES` lists them.
"""

import numpy as np
import numpy.typing as npt

from job.model.vgg import PREPROCESSING

_Array = npt.NDArray

# Description of each scale. "raw" leaves pixels as they are, 0 to 255.
SCALES = {
    "raw": "as they are",
    "unit": "divided by 255",
    "symmetric": "from -1 to 1",
    "standardize": "standardized",
    "caffe": "as ImageNet's VGG16 knows them",
}


def scale(images: _Array, name: str) -> _Array:
    """Returns the images on one of the scales.

    Args:
      images: uint8 or float32 [n, h, w, 3], RGB, 0 to 255.
      name: Key of `SCALES`.

    Returns:
      float32 [n, h, w, 3].
    """
    pixels = images.astype(np.float32)
    if name == "raw":
        return pixels
    if name == "symmetric":
        return pixels / 127.5 - 1
    mean, divisor, reverse_channels = PREPROCESSING[name]
    pixels = pixels[..., ::-1] if reverse_channels else pixels
    scaled = (pixels - np.asarray(mean)) / np.asarray(divisor)
    return scaled.astype(np.float32)
