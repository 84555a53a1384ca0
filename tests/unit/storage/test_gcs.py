"""Failures of a bucket, with the real client over HTTP against `gcs_server`.

Transient errors are retried, permanent ones are reported immediately, and
damaged bytes are never accepted.
"""

import time
import types

import numpy as np
import pytest
from google.auth import exceptions as auth_errors
from google.auth.transport.requests import AuthorizedSession

from job import errors
from job.checkpoint import store
from job.storage import gcs, gcs_errors
from tests.support.gcs_server import Fault
from tests.support.jobs import run_job

CONTENT = np.random.default_rng(0).bytes(10_000)
# Above 8 MiB the client's uploads are resumable and use other requests.
LARGE = np.random.default_rng(0).bytes(9 * 2**20)


def arrays(content: bytes) -> list[np.ndarray]:
    """Returns a file's content in three pieces, one of them empty."""
    array = np.frombuffer(content, np.uint8)
    return [array[:1000], array[1000:1000], array[1000:]]


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "kind", ["408", "429", "500", "502", "503", "504", "reset", "reset after"]
)
def test_transient_errors_are_retried(bucket, content, kind):
    storage = bucket.open()
    for name in ("a", "b"):
        bucket.server.faults = [Fault("(POST|PUT) .*upload", kind, times=2)]
        storage.publish(name, arrays(content))
        assert bucket.server.faults[0].times == 0
    assert bucket.files() == {"a": content, "b": content}
    bucket.server.faults = [
        Fault(match, kind)
        for match in ("GET .*download", "GET .*prefix", "DELETE")
    ]
    assert storage.read("a") == content
    assert len(storage.find()) == 2
    storage.delete("b")
    assert list(bucket.files()) == ["a"]
    assert {fault.times for fault in bucket.server.faults} == {0}


@pytest.mark.parametrize("kind", ["503", "reset", "cut"])
def test_a_failed_range_is_read_again(bucket, kind):
    bucket.put("a", LARGE)
    bucket.server.faults = [Fault("GET .*download", kind, times=2)]
    with bucket.open().open("a", range_bytes=2**20) as file:
        assert file.read(8) == LARGE[:8]
        assert file.read(5 * 2**20) == LARGE[8 : 8 + 5 * 2**20]
        assert file.read() == LARGE[8 + 5 * 2**20 :]
    assert bucket.server.faults[0].times == 0


def test_a_lost_answer_is_recognized_as_success(bucket):
    storage = bucket.open()
    bucket.server.faults = [Fault("POST .*manifest", "reset after")]
    storage.publish("manifest", arrays(CONTENT))
    assert bucket.files() == {"manifest": CONTENT}
    (upload, *rest) = [r for r in bucket.server.requests if "manifest" in r]
    assert "ifGenerationMatch=0" in upload
    assert [r.partition(" ")[0] for r in rest] == ["POST", "GET"]


def test_a_file_of_another_process_is_not_a_success(bucket):
    bucket.put("manifest", b"another's")
    with pytest.raises(FileExistsError):
        bucket.open().publish("manifest", arrays(CONTENT))
    # A lost answer does not change that.
    bucket.server.faults = [Fault("POST .*manifest", "503")]
    with pytest.raises(FileExistsError):
        bucket.open().publish("manifest", arrays(CONTENT))
    assert bucket.files() == {"manifest": b"another's"}


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["corrupt", "lie"])
def test_a_damaged_upload_is_a_transient_error(bucket, content, kind):
    """The server refuses it, or the client detects it."""
    storage = bucket.open()
    bucket.server.faults = [Fault("(POST .*multipart|PUT)", kind)]
    with pytest.raises(errors.UnavailableError):
        storage.publish("a", arrays(content))
    assert bucket.server.faults[0].times == 0
    assert bucket.files() == {}
    storage.publish("a", arrays(content))
    assert bucket.files() == {"a": content}


def test_a_damaged_download_is_never_accepted(bucket):
    bucket.put("a", CONTENT)
    bucket.server.faults = [Fault("GET .*download", "corrupt")]
    with pytest.raises(errors.UnavailableError, match="checksum"):
        bucket.open().read("a")
    assert bucket.open().read("a") == CONTENT


def save(made: store.CheckpointStore, *steps: int) -> None:
    for step in steps:
        made.save(step, {"a": np.full(5, step, np.float32)}, {})


def test_damage_in_transit_sets_no_checkpoint_aside(bucket):
    made = store.CheckpointStore(gcs.Bucket(bucket.url, timeout_seconds=1.0))
    save(made, 1, 2)
    bucket.server.faults = [Fault("GET .*download", "corrupt")]
    assert made.restore_newest()[0].step == 2
    bucket.server.faults = [Fault("GET .*download", "corrupt", times=-1)]
    with pytest.raises(errors.UnavailableError, match="checksum"):
        made.restore_newest()
    bucket.server.faults = []
    assert made.restore_newest()[0].step == 2


@pytest.mark.parametrize("match", ["POST .*copyTo", "DELETE"])
def test_a_damaged_checkpoint_that_may_not_be_moved_is_skipped(bucket, match):
    """The account is allowed to create objects only."""
    made = store.CheckpointStore(bucket.open())
    save(made, 1, 2)
    name = store.file_name(2)
    bucket.put(name, bucket.files()[name][:-1])
    bucket.server.faults = [Fault(match, "403", times=-1)]
    assert made.restore_newest()[0].step == 1
    save(made, 3)
    assert store.CheckpointStore(bucket.open()).restore_newest()[0].step == 3


def test_a_stalled_request_is_repeated(bucket):
    bucket.server.faults = [
        Fault("POST .*data", "stall", seconds=60.0),
        Fault("POST .*late", "late", seconds=60.0),
    ]
    storage = gcs.Bucket(bucket.url, read_seconds=0.3)
    for name in ("data", "late"):
        storage.publish(name, arrays(CONTENT), timeout=30.0)
    assert bucket.files() == {"data": CONTENT, "late": CONTENT}


def test_a_timeout_limits_all_tries(bucket):
    bucket.server.faults = [Fault("data", "stall", times=-1, seconds=3600.0)]
    with pytest.raises(
        errors.UnavailableError, match="no request succeeded in time"
    ):
        bucket.open().publish("data", arrays(CONTENT), timeout=0.5)


def test_a_move_keeps_a_file_published_in_the_meantime(bucket):
    storage = bucket.open()
    bucket.put("a", b"damaged")
    take_fault = bucket.server.take_fault

    def publish(request):
        if request.startswith("DELETE"):
            bucket.put("a", b"good")
        return take_fault(request)

    bucket.server.take_fault = publish
    try:
        storage.move("a", "aside")
    finally:
        bucket.server.take_fault = take_fault
    assert bucket.files() == {"a": b"good", "aside": b"damaged"}


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        (
            "gs://no-such-bucket/run",
            "",
            "the bucket 'no-such-bucket' does not exist",
        ),
        (None, "403", "roles/storage.objectUser on the bucket 'bucket'"),
        (None, "401", "credentials"),
    ],
)
def test_a_permanent_error_is_reported_immediately(bucket, url, kind, said):
    if kind:
        bucket.server.faults = [Fault("POST", kind, times=-1)]
    start = time.monotonic()
    with pytest.raises(errors.StorageError, match=said) as caught:
        gcs.Bucket(url or bucket.url).check_writable()
    assert not isinstance(caught.value, errors.UnavailableError)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (None, errors.UnavailableError),
        (503, errors.UnavailableError),
        (404, errors.StorageError),
    ],
)
def test_an_absent_metadata_server_is_a_transient_error(
    bucket, monkeypatch, status, kind
):
    """google.auth raises this error for a token; GKE has such a server."""
    storage = gcs.Bucket(bucket.url, timeout_seconds=0.5)
    answer = types.SimpleNamespace(status=status)
    cause = auth_errors.TransportError("away", *([answer] if status else []))

    def refresh(*unused, **unused_too):
        raise auth_errors.RefreshError(cause)

    monkeypatch.setattr(AuthorizedSession, "request", refresh)
    with pytest.raises(errors.StorageError, match="away") as caught:
        storage.find()
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, errors.UnavailableError),
        (
            {
                "KUBERNETES_SERVICE_HOST": "10.0.0.1",
                "GOOGLE_APPLICATION_CREDENTIALS": "/key.json",
            },
            errors.StorageError,
        ),
        ({}, errors.StorageError),
    ],
)
def test_a_pod_may_get_its_credentials_later(monkeypatch, variables, kind):
    for name in ("KUBERNETES_SERVICE_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(errors.StorageError, match="Workload Identity") as caught,
        gcs_errors.translate_errors("gs://bucket/a", bucket="bucket"),
    ):
        raise auth_errors.DefaultCredentialsError("none")
    assert type(caught.value) is kind


@pytest.mark.parametrize("match", ["POST", "GET .*download", "GET .*prefix"])
def test_the_probe_checks_every_permission_of_a_run(bucket, match):
    bucket.server.faults = [Fault(match, "403", times=-1)]
    with pytest.raises(errors.StorageError, match=r"objectUser"):
        bucket.open().check_writable()
    bucket.server.faults = []
    bucket.open().check_writable()
    assert bucket.files() == {}


def test_an_absent_server_is_reported_after_some_attempts(bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(errors.UnavailableError, match="Connection refused"):
        gcs.Bucket(bucket.url, timeout_seconds=0.5).find()


@pytest.mark.parametrize(
    "url",
    [
        "gs://",
        "gs:///run",
        "gs://Bucket/run",
        "gs://b/run",
        "gs://bucket/../x",
        "gs://bucket/a//b",
        "s3://bucket/run",
        "gs://bucket/./a",
    ],
)
def test_an_invalid_bucket_url_is_refused(url):
    with pytest.raises(errors.ConfigError):
        gcs.split_url(url)


def test_a_url_is_split_into_bucket_and_path():
    assert gcs.split_url("gs://bucket/a/b/") == ("bucket", "a/b")
    assert gcs.split_url("gs://my.bucket-1") == ("my.bucket-1", "")


def test_the_job_reports_an_unusable_bucket_before_it_starts(
    bucket, monkeypatch
):
    done = run_job("--config=configs/smoke.py", "--workdir=gs://none-here/run")
    assert done.returncode == 3
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("storage error: gs://none-here/run")
    assert "the bucket 'none-here' does not exist" in line
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nothing/here.json")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    done = run_job("--config=configs/smoke.py", f"--workdir={bucket.url}")
    assert done.returncode == 3, done.stderr
    assert "credentials" in done.stderr
