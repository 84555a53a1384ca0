"""Checks of a network's description, beyond those in test_from_config."""

from job.diagnose import architecture, costs
from tests.support.findings import assert_finding


def test_missing_batch_norm_costs_less_for_a_network_that_learns():
    cost = {
        learns: architecture.check_batch_norm(
            batch_norm=False, pretrained=False, learns=learns
        ).cost
        for learns in (True, False, None)
    }
    assert cost[True] == costs.NO_BATCH_NORM
    assert cost[False] == cost[None] == costs.STUCK


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
