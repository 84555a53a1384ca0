"""Downloads of single objects, whose errors name the flag and the object."""

import pytest

from job import errors
from job.storage import download, gcs
from tests.support.gcs_server import Fault

WHAT = "model.weights=gs://..."


def test_an_object_is_downloaded_and_failures_name_it(bucket, monkeypatch):
    bucket.put("x.h5", b"weights")
    url = f"{bucket.url}/x.h5"
    assert download.fetch(url, most_bytes=7, what=WHAT) == b"weights"
    for wrong, most, said in (
        (f"{bucket.url}/y.h5", 7, f"{WHAT}: {bucket.url}/y.h5 does not exist"),
        (url, 6, f"{WHAT}: the object cannot be read .* 7 bytes, more than 6"),
    ):
        with pytest.raises(errors.DataError, match=said):
            download.fetch(wrong, most_bytes=most, what=WHAT)
    with pytest.raises(errors.ConfigError, match="gs://BUCKET/PATH"):
        download.fetch("gs://x.h5", most_bytes=7, what=WHAT)
    # A later try may succeed, so the exit code differs.
    bucket.server.faults = [Fault("GET", "503", times=-1)]
    defaults = gcs.Bucket.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "timeout_seconds", 0.5)
    with pytest.raises(
        errors.UnavailableError, match="no request succeeded in time"
    ):
        download.fetch(url, most_bytes=7, what=WHAT)
