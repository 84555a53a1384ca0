"""Tests of the layout against the network and the paper."""

import math
import subprocess
import sys

from job.model import spec, vgg
from tests.support.jobs import ROOT


def test_shapes_are_those_of_the_network():
    network = vgg.vgg16(width=0.3, stem_filters=10)
    found = {
        layer.name: tuple(layer.kernel.shape)
        for layer in network.layers
        if layer.name in spec.kernel_shapes()
    }
    assert found == spec.kernel_shapes(width=0.3, stem_filters=10)


def test_the_convolutions_have_the_published_parameters():
    # keras.applications.VGG16 without its top has 14,714,688, of which 4,224
    # are biases.
    shapes = spec.kernel_shapes().values()
    assert sum(math.prod(shape) for shape in shapes) == 14_714_688 - 4_224


def test_it_imports_no_tensorflow():
    code = (
        "import sys, job.model.spec;"
        " sys.exit(bool({'tensorflow', 'keras'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
