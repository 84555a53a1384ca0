"""Tests of checks of a network, in addition to test_from_config."""

from configs import stem32, transfer
from job.diagnose import architecture
from tests.support.findings import assert_finding, make_settings


def test_cost_of_a_frozen_base_depends_on_its_images():
    frozen = transfer.get_config("frozen")
    small, large = (
        architecture.check_frozen_base(
            make_settings(frozen, {"model.input_size": size})
        )
        for size in (32, 128)
    )
    assert_finding(small, "frozen_base")
    assert small.cost.order > large.cost.order


def test_preprocessing_matters_for_pretrained_weights():
    def check(preprocessing, weights):
        settings = make_settings(
            stem32.get_config(),
            {"model.weights": weights},
            preprocessing=preprocessing,
        )
        return architecture.check_preprocessing(settings)

    assert_finding(check("unit", "imagenet"), "preprocessing")
    assert not check("caffe", "imagenet")
    assert not check("unit", "")


def check_head(pooling="avg", *, units=(), size=32, num_classes=10):
    head = {
        "model.head_pooling": pooling,
        "model.head_units": units,
        "model.input_size": size,
        "model.width": 1.0,
    }
    return architecture.check_large_head(
        make_settings(stem32.get_config(), head, num_classes=num_classes)
    )


def test_head_on_a_flattened_feature_map_is_larger():
    assert_finding(check_head("flatten", units=(1024,), size=224), "large_head")
    assert not check_head("avg", units=(1024,), size=224)


def test_units_of_the_head_include_the_classes():
    assert not check_head(num_classes=10)
    assert_finding(check_head(num_classes=30_000), "large_head")
