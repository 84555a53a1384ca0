"""Tests of every field of `config.augment` and its documentation."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf

from configs import augment_presets
from job import augment, errors
from job.augment import operations
from job.config import ranges
from job.data import pipeline
from tests.support.jobs import ROOT
from tests.support.strengths import config_with, strong

FIELDS = augment_presets.off()
# Values of fields that are not strengths, with the fields that they affect.
NAMED = {
    "flip": [{"flip": "random"}, {"flip": "alternating"}],
    "fill": [{"translate": 8.0, "fill": fill} for fill in ("nearest", "zero")],
}


def augmented(split, fields):
    call = augment.make_augment(
        augment.create_operations(fields),
        seed=0,
        num_images=len(split),
        global_batch_size=16,
        num_replicas=1,
    )
    batches = pipeline.train_batches(
        split, seed=0, global_batch_size=16, first_step=0
    )
    (batch,) = batches.take(1)
    return call(batch, tf.constant(3, tf.int64), tf.constant(0))


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_changes_images(split, name):
    changes = NAMED.get(name)
    if changes is None:
        changes = [{name: strong(name)}]
    seen = []
    for fields in changes:
        base = {**FIELDS, **fields, name: FIELDS[name]}
        plain, changed = (
            augmented(split, f).image.numpy() for f in (base, base | fields)
        )
        assert changed.dtype == np.uint8
        assert (changed != plain).any(axis=(1, 2, 3)).mean() > 0.2
        seen.append(changed.tobytes())
    assert len({*seen}) == len(changes)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_has_a_range(name):
    wrong = "none such" if name in NAMED else -1.0
    with pytest.raises(errors.ConfigError, match=rf"augment\.{name}="):
        ranges.check(config_with({name: wrong}))


def test_the_documentation_has_a_row_for_each_field():
    text = (ROOT / "docs" / "augmentation.md").read_text()
    table = text[text.index("## Fields") : text.index("## Presets")]
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", table, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(names) == sorted(FIELDS)


def test_operations_have_the_fields_of_the_config_and_their_off_values():
    defaults = {}
    for kind in operations.OPERATIONS:
        for field in dataclasses.fields(kind):
            assert defaults.setdefault(field.name, field.default) == (
                field.default
            )
    assert defaults == FIELDS
    assert augment.create_operations(FIELDS) == ()
    assert augment.create_operations({}) == ()
    with pytest.raises(TypeError, match="unknown augmentation fields: zooom"):
        augment.create_operations({"zooom": 0.1})


def test_operations_that_are_on_are_in_order():
    created = augment.create_operations(
        {"cutout_pixels": 8.0, "hue": 0.0, "translate": 1.0, "fill": "zero"}
    )
    assert created == (
        operations.FlipAndTranslate(translate=1.0, fill="zero"),
        operations.Cutout(cutout_pixels=8.0),
    )


def test_purposes_of_random_draws_are_unique_and_fixed():
    """Protects results, which depend on these numbers."""
    numbers = {
        name: value
        for kind in operations.OPERATIONS
        for name, value in vars(kind).items()
        if name.isupper()
    }
    assert numbers == {
        "FLIP": 0,
        "TRANSLATE": 1,
        "CUTOUT": 2,
        "WARP": 3,
        "JITTER": 4,
        "AUTOAUGMENT": 5,
        "RANDAUGMENT": 6,
        "MIXUP": 7,
        "CUTMIX": 8,
    }
    assert len({*numbers.values()}) == len(numbers)


def test_presets_set_every_field():
    for name in augment_presets.NAMES:
        assert augment_presets.fields(name).keys() == FIELDS.keys()
    assert augment_presets.fields("crop_flip") == {
        **FIELDS,
        "flip": "random",
        "translate": 4.0,
        "fill": "zero",
    }
