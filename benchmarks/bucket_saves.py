"""Measures how long a checkpoint takes to a bucket whose streams are slow.

    python -m benchmarks.bucket_saves

A server on this machine limits each stream and delays each answer. One upload
of the whole file is compared with parts that are uploaded at the same time and
composed into one object. Prints a Markdown table: the fastest of three uploads,
and the CPU time of that upload in the client.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import time

from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

MB_PER_SECOND = 50
LATENCY_MS = 30
# Full width with a hidden layer of 512; with 4096 units; at 224 pixels.
SIZES_MB = (177, 400, 1700)
PARTS = 4
REPEATS = 3


def upload_one(bucket: storage.Bucket, name: str, content: bytes) -> None:
    """Uploads a new object in one stream."""
    bucket.blob(name, chunk_size=32 * 2**20).upload_from_string(
        content, if_generation_match=0, checksum="crc32c", retry=DEFAULT_RETRY
    )


def upload_parts(bucket: storage.Bucket, name: str, content: bytes) -> None:
    """Uploads parts at the same time, composes them and deletes the parts."""
    size = -(-len(content) // PARTS)
    names = [f"{name}.part-{i}" for i in range(PARTS)]
    with concurrent.futures.ThreadPoolExecutor(PARTS) as pool:
        list(
            pool.map(
                lambda i: upload_one(
                    bucket, names[i], content[i * size : (i + 1) * size]
                ),
                range(PARTS),
            )
        )
    parts = [bucket.blob(part) for part in names]
    bucket.blob(name).compose(parts, if_generation_match=0)
    for part in parts:
        part.delete()


def main() -> None:
    command = [sys.executable, "-m", "tests.support.gcs_server", "bucket"]
    command += [f"--stream_bytes_per_second={MB_PER_SECOND * 1e6}"]
    command += [f"--latency_seconds={LATENCY_MS / 1e3}"]
    root = pathlib.Path(__file__).parents[1]
    server = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    os.environ["STORAGE_EMULATOR_HOST"] = server.stdout.readline().strip()
    try:
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
    finally:
        server.kill()


if __name__ == "__main__":
    main()
