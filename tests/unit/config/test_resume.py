"""Fields that may change when a run is resumed."""

from configs import augment_presets
from job.config import augmentation, resume, serialization


def test_preset_equals_its_fields_set_by_hand(config):
    by_hand = serialization.flatten(config) | {
        f"augment.{field}": value
        for field, value in augment_presets.fields("strong").items()
    }
    config.augment.preset = "strong"
    augmentation.use_preset(config, ())
    fields = serialization.flatten(config)
    assert resume.differences(by_hand, fields) == []
    assert resume.fingerprint(by_hand) == resume.fingerprint(fields)


def test_resume_may_change_intervals_but_not_results(config):
    saved = serialization.flatten(config)
    config.epochs = 5.0
    config.log_every_steps = 1
    config.checkpoint.keep = 3
    config.distribute.logical_devices = 2
    fields = serialization.flatten(config)
    assert resume.differences(saved, fields) == []
    assert resume.fingerprint(saved) == resume.fingerprint(fields)
    config.optimizer.momentum = 0.8
    fields = serialization.flatten(config)
    assert resume.differences(saved, fields) == [
        "optimizer.momentum: 0.9 -> 0.8"
    ]
    assert resume.fingerprint(saved) != resume.fingerprint(fields)


def test_workers_must_agree_on_all_but_the_place_of_their_images(config):
    chiefs = serialization.flatten(config)
    config.data.dir = "elsewhere"
    config.distribute.require_gpus = 1
    assert (
        resume.worker_differences(chiefs, serialization.flatten(config)) == []
    )
    config.epochs = 5.0
    config.evaluate.every_epochs = 3.0
    assert resume.worker_differences(chiefs, serialization.flatten(config)) == [
        f"epochs: {chiefs['epochs']} -> 5.0",
        f"evaluate.every_epochs: {chiefs['evaluate.every_epochs']} -> 3.0",
    ]


def test_field_that_a_checkpoint_lacks_counts_as_its_default(config):
    older = serialization.flatten(config)
    del older["optimizer.clip_norm"]
    assert resume.differences(older, serialization.flatten(config)) == []
    config.optimizer.clip_norm = 0.5
    assert resume.differences(older, serialization.flatten(config)) == [
        "optimizer.clip_norm: 0.0 -> 0.5"
    ]
