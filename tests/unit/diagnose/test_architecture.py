"""Tests of checks of a network, in addition to test_from_config."""

from job.diagnose import architecture
from tests.support.findings import assert_finding


def test_cost_of_a_frozen_base_depends_on_its_images():
    small, large = (
        architecture.check_frozen_base(input_size=size, frozen=True)
        for size in (32, 128)
    )
    assert_finding(small, "frozen_base")
    assert small.cost.points > large.cost.points
    assert not architecture.check_frozen_base(input_size=32, frozen=False)


def test_preprocessing_matters_for_pretrained_weights():
    def check(preprocessing, pretrained):
        return architecture.check_preprocessing(
            preprocessing=preprocessing, pretrained=pretrained
        )

    assert_finding(check("unit", True), "preprocessing")
    assert not check("caffe", True)
    assert not check("unit", False)


def test_head_on_a_flattened_feature_map_is_larger():
    head = {
        "head_units": (1024,),
        "input_size": 224,
        "width": 1.0,
        "num_classes": 10,
    }
    found = architecture.check_large_head(**head, flatten=True)
    assert_finding(found, "large_head")
    assert not architecture.check_large_head(**head, flatten=False)


def test_units_of_the_head_include_the_classes():
    head = {"head_units": (), "input_size": 32, "width": 1.0, "flatten": False}
    assert not architecture.check_large_head(**head, num_classes=10)
    found = architecture.check_large_head(**head, num_classes=30_000)
    assert_finding(found, "large_head")
