"""Layout of VGG16: blocks, layer names and kernel shapes.

    block_filters(width=0.5)                     # [32, 64, 128, 256, 256]
    kernel_shapes()["block1_conv1"]              # (3, 3, 3, 64)
    block_of_layer("block1_conv1_bn")            # "block1"

The module imports neither TensorFlow nor Keras, because the diagnosis of a
config needs neither.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """Convolutions between two pooling layers.

    Attributes:
      depth: Number of convolutions.
      filters: Number of filters of each convolution at width 1.
    """

    depth: int
    filters: int


# Configuration D of Simonyan & Zisserman (arXiv:1409.1556), table 1.
VGG16 = (
    Block(2, 64),
    Block(2, 128),
    Block(3, 256),
    Block(3, 512),
    Block(3, 512),
)

# Names of the blocks, from the input to the output.
BLOCK_NAMES = tuple(f"block{i}" for i in range(1, len(VGG16) + 1))

# Block name of the dense layers.
HEAD = "head"


def block_of_layer(layer: str) -> str:
    """Returns the block of a layer, one of `BLOCK_NAMES` or `HEAD`."""
    return layer.split("_")[0] if layer.startswith("block") else HEAD


def block_filters(
    blocks: Sequence[Block] = VGG16,
    *,
    width: float = 1.0,
    stem_filters: int = 0,
) -> list[int]:
    """Returns the number of filters of each block.

    Args:
      blocks: Blocks, from the input to the output.
      width: Multiplier of the filters, above 0.
      stem_filters: Filters of the first block. If 0, 64 * width.
    """
    filters = [max(1, round(block.filters * width)) for block in blocks]
    if stem_filters:
        filters[0] = stem_filters
    return filters


def kernel_shapes(
    blocks: Sequence[Block] = VGG16,
    *,
    width: float = 1.0,
    stem_filters: int = 0,
) -> dict[str, tuple[int, int, int, int]]:
    """Returns the kernel shape of each convolution by layer name.

    Args:
      blocks: Blocks, from the input to the output.
      width: Multiplier of the filters, above 0.
      stem_filters: Filters of the first block. If 0, 64 * width.

    Returns:
      Shapes (height, width, input channels, filters), from the input to the
      output.
    """
    shapes: dict[str, tuple[int, int, int, int]] = {}
    channels = 3
    filters = block_filters(blocks, width=width, stem_filters=stem_filters)
    for name, block, count in zip(BLOCK_NAMES, blocks, filters, strict=True):
        for conv in range(1, block.depth + 1):
            shapes[f"{name}_conv{conv}"] = (3, 3, channels, count)
            channels = count
    return shapes
