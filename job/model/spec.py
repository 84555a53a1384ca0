"""Layout of the network; imports neither TensorFlow nor Keras."""

# Convolutions and filters of each block.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

# Names of the blocks, from the input on.
BLOCK_NAMES = tuple(f"block{i}" for i in range(1, len(BLOCKS) + 1))

HEAD = "head"
