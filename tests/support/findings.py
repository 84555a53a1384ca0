"""Settings for the checks of job/diagnose, and assertions on findings."""

import dataclasses
from typing import Any

import ml_collections

from job import build
from job.config import serialization
from job.diagnose.finding import Finding
from job.diagnose.settings import Settings


def make_settings(
    config: ml_collections.ConfigDict,
    changes: dict[str, Any] | None = None,
    **others: Any,
) -> Settings:
    """Returns the checks' settings for a changed config, on one replica."""
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(changes or {})
    synthetic = config.data.source == "synthetic"
    count = config.data.synthetic_train_images if synthetic else 50_000
    settings = Settings(
        serialization.flatten(config),
        train_steps=build.create_plan(config, count).train_steps,
        num_images=count,
        num_classes=10,
        replicas=1,
        is_synthetic=synthetic,
        preprocessing=build.preprocessing(config),
        learns=True,
    )
    return dataclasses.replace(settings, **others)


def assert_finding(found: Finding | None, check: str) -> None:
    """Asserts that a check found its mistake, and that a user can act on it."""
    assert found is not None
    assert found.check == check
    # The evidence contains a number.
    assert any(character.isdigit() for character in found.evidence)
    assert found.cost.source
    assert found.fix or found.flags
