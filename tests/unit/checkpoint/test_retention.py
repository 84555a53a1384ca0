"""The policy of garbage collection, from listings alone."""

import pytest

from job.checkpoint import layout, manifest, retention
from job.storage import Entry

NOW = 10_000.0
OLD = NOW - retention.ABANDONED_SECONDS - 1


def listing(*files):
    """Returns a listing of (name, time of modification)."""
    return layout.by_step(Entry(name, 1, when) for name, when in files)


def made(*names):
    files = tuple(manifest.File(name, 1, "00000000") for name in names)
    return manifest.Manifest(1, "ab12", files, (), {})


@pytest.mark.parametrize(
    ("committed", "scores", "deleted"),
    [
        ([1, 2, 3, 4], None, [1, 2]),
        ([1, 2], None, []),
        ([4], None, []),
        ([1, 2, 3, 4], {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.2}, [1]),
        # Of equal scores the newest one counts.
        ([1, 2, 3, 4], {1: 0.5, 2: 0.5, 3: 0.1, 4: 0.1}, [1]),
        ([1, 2, 3, 4], {1: 0.5, 2: 0.1, 3: 0.1, 4: 0.7}, [1, 2]),
    ],
)
def test_the_newest_and_the_best_are_kept(committed, scores, deleted):
    assert retention.superseded(committed, keep=2, scores=scores) == deleted


def abandoned(files, read_manifest=lambda step: made("tensors-0-ab12.bin")):
    newest = ("step-00000005/MANIFEST.json", NOW)
    return [*retention.abandoned(listing(newest, *files), 5, read_manifest)]


def test_old_files_that_no_manifest_names_are_abandoned():
    dead = "step-00000004/tensors-0-dead00.bin"
    assert abandoned([(dead, OLD)]) == [dead]
    # A live process may still commit it.
    assert abandoned([(dead, OLD + 2)]) == []
    # Later steps belong to a process that is ahead.
    assert abandoned([("step-00000006/tensors-0-dead00.bin", OLD)]) == []


def test_files_of_a_committed_step_are_kept_and_others_beside_them_not():
    files = [
        ("step-00000004/MANIFEST.json", OLD),
        ("step-00000004/tensors-0-ab12.bin", OLD),
        ("step-00000004/tensors-0-dead00.bin", OLD),
    ]
    assert abandoned(files) == ["step-00000004/tensors-0-dead00.bin"]


def test_unreadable_and_quarantined_checkpoints_are_left_alone():
    data = ("step-00000004/tensors-0-dead00.bin", OLD)
    committed = ("step-00000004/MANIFEST.json", OLD)
    assert abandoned([data, committed], lambda step: None) == []
    quarantined = (f"step-00000004/{layout.QUARANTINED}ab12", OLD)
    assert abandoned([data, quarantined]) == []


def test_manifests_are_read_only_where_something_is_old():
    asked = []
    files = [
        ("step-00000003/MANIFEST.json", NOW),
        ("step-00000004/MANIFEST.json", OLD),
    ]
    abandoned(files, asked.append)
    assert asked == [4]
