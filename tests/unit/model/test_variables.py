"""Tests of the weight decay mask and of the blocks of variables."""

from job.model import spec, variables, vgg


def test_every_variable_belongs_to_a_block():
    network = vgg.vgg16(width=0.125, head_units=(8,))
    blocks = variables.variable_blocks(network)
    assert [*dict.fromkeys(blocks)] == [*spec.BLOCK_NAMES, spec.HEAD]
    # Each convolution has kernel, scale and bias; two dense layers follow.
    assert [blocks.count(name) for name in (*spec.BLOCK_NAMES, spec.HEAD)] == [
        *(6, 6, 9, 9, 9),
        4,
    ]


def test_only_kernels_decay():
    network = vgg.vgg16(width=0.125)
    paths = [v.path for v in network.trainable_variables]
    mask = variables.weight_decay_mask(network)
    assert mask == [path.endswith("/kernel") for path in paths]
    assert sum(mask) == 14


def test_batch_norm_momentum_is_that_of_the_layers():
    network = vgg.vgg16(width=0.125, batch_norm_momentum=0.7)
    assert variables.batch_norm_momentum(network) == 0.7
    network = vgg.vgg16(width=0.125, batch_norm=False)
    assert variables.batch_norm_momentum(network) == 0.0
