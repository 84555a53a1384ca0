"""Tests of configs/ beyond the checks that every shipped config passes."""

import pytest

from configs import ablations


@pytest.mark.parametrize("suffix", ["", "_gpu", "_transfer"])
def test_a_former_plan_name_is_an_error_that_names_the_new_one(suffix):
    with pytest.raises(ValueError, match=rf"\bbaselines{suffix}\b"):
        ablations.get_config(f"records{suffix}")
