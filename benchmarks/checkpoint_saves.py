"""Benchmark of checkpoints of a run's size, on a disk and in a bucket.

    python -m benchmarks.checkpoint_saves streams
    python -m benchmarks.checkpoint_saves saves

`streams` compares one upload with parallel uploads of parts, which are composed
into one object. A local server limits each stream and delays each answer. The
command prints the fastest of three uploads and its CPU time in the client.
`saves` measures the job's saver without a limit. It prints the time of the copy
and the call, the time until the commit, and the time of a read. Both print a
Markdown table. The module does not import TensorFlow.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from job.checkpoint.saver import AsyncSaver
from job.checkpoint.store import CheckpointStore
from job.storage import disk, gcs

MB_PER_SECOND = 50
LATENCY_MS = 30
# Sizes in MB at full width with a hidden layer of 512, with 4096 units, and at
# 224 pixels.
SIZES_MB = (177, 400, 1700)
PARTS = 4
REPEATS = 3
SAVES = 7


@contextlib.contextmanager
def bucket_server(*options: str) -> Iterator[None]:
    """Runs the strict server of the tests, with a bucket named "bucket"."""
    root = pathlib.Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.gcs_server", "bucket", *options],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout
        os.environ["STORAGE_EMULATOR_HOST"] = server.stdout.readline().strip()
        try:
            yield
        finally:
            server.kill()


def upload_one(bucket: storage.Bucket, name: str, content: bytes) -> None:
    """Uploads a new object in one stream."""
    bucket.blob(name, chunk_size=32 * 2**20).upload_from_string(
        content, if_generation_match=0, checksum="crc32c", retry=DEFAULT_RETRY
    )


def upload_parts(bucket: storage.Bucket, name: str, content: bytes) -> None:
    """Uploads parts at the same time, composes them and deletes the parts."""
    size = -(-len(content) // PARTS)
    names = [f"{name}.part-{i}" for i in range(PARTS)]

    def upload(index: int) -> None:
        part = content[index * size : (index + 1) * size]
        upload_one(bucket, names[index], part)

    with concurrent.futures.ThreadPoolExecutor(PARTS) as pool:
        list(pool.map(upload, range(PARTS)))
    parts = [bucket.blob(part) for part in names]
    bucket.blob(name).compose(parts, if_generation_match=0)
    for part in parts:
        part.delete()


def measure_streams() -> None:
    """Prints the times of uploads in one stream and in parts."""
    bucket = storage.Client(project="none").bucket("bucket")
    print(f"| MB | one stream | CPU | {PARTS} parts, composed | CPU |")
    print("|---|---|---|---|---|")
    for megabytes in SIZES_MB:
        content = bytes(megabytes * 10**6)
        row = [str(megabytes)]
        for upload in (upload_one, upload_parts):
            seconds = []
            for _ in range(REPEATS):
                start, cpu = time.perf_counter(), time.process_time()
                upload(bucket, "file", content)
                now = time.perf_counter(), time.process_time()
                seconds.append((now[0] - start, now[1] - cpu))
                bucket.blob("file").delete()
            row += [f"{value:.1f} s" for value in min(seconds)]
        print(f"| {' | '.join(row)} |", flush=True)


def measure_saves(place: str, store: CheckpointStore) -> None:
    """Prints a row with the times of saves of 177 MB in 100 tensors.

    Args:
      place: Name of the storage.
      store: Store of the checkpoints.
    """
    rng = np.random.default_rng(0)
    count = SIZES_MB[0] * 10**6 // 400
    state = {f"t{i}": rng.standard_normal(count, "f4") for i in range(100)}
    stalls, reads = [], []
    with AsyncSaver(store) as saver:
        for step in range(SAVES):
            start = time.perf_counter()
            tensors = {name: value.copy() for name, value in state.items()}
            saver.save(step, tensors, {})
            stalls.append(time.perf_counter() - start)
            del tensors
            saver.flush()
        commits = saver.commits
    for _ in range(REPEATS):
        start = time.perf_counter()
        store.restore_newest()
        reads.append(time.perf_counter() - start)
    values = [
        f"{commits[0][0]:,}",
        f"{statistics.median(stalls):.2f} s",
        f"{statistics.median(seconds for _, seconds in commits):.2f} s",
        f"{statistics.median(reads):.2f} s",
    ]
    print(f"| {place} | {' | '.join(values)} |", flush=True)


def main(what: str) -> None:
    if what == "streams":
        with bucket_server(
            f"--stream_bytes_per_second={MB_PER_SECOND * 1e6}",
            f"--latency_seconds={LATENCY_MS / 1e3}",
        ):
            measure_streams()
        return
    print("| to | bytes | the loop waits | committed after | read in |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, bucket_server():
        measure_saves(
            "a disk", CheckpointStore(disk.Disk(pathlib.Path(folder, "c")))
        )
        measure_saves("a bucket", CheckpointStore(gcs.Bucket("gs://bucket/c")))


if __name__ == "__main__":
    main(*sys.argv[1:])
