"""Small, strict server of the Google Cloud Storage API, with injected faults.

fake-gcs-server, which other tests use, ignores the preconditions of resumable
uploads and deletions, and accepts any checksum. This server refuses all of
these as Google's does, and can inject faults; see `Fault`. It implements the
calls that `job/storage/gcs.py` makes.

    with StrictServer() as server:
        server.faults.append(Fault("POST .*step-", "503", times=2))

Tests that fork or kill run it in a separate process:

    python -m tests.support.gcs_server BUCKET     # prints its URL

Semantics: https://cloud.google.com/storage/docs/json_api/v1/objects and
https://cloud.google.com/storage/docs/request-preconditions.
"""

import argparse
import base64
import contextlib
import dataclasses
import datetime
import email.parser
import email.policy
import http.server
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
import uuid

import google_crc32c


@dataclasses.dataclass
class Fault:
    """Fault of the requests that match.

    Attributes:
      match: Regular expression, searched in the unquoted "METHOD PATH?QUERY".
        For an upload, the object's name follows after a space.
      kind: Status code to send instead of the response, or one of these:
        "reset" drops the connection before the request is handled;
        "reset after" drops it after the request is handled;
        "stall" waits for `seconds` before the request is handled;
        "late" waits for `seconds` after the request is handled;
        "corrupt" flips a bit of the content in transit but not its checksum;
        "lie" flips a bit of the stored content without comparing checksums;
        "cut" sends half of the response and drops the connection.
      times: Number of requests to affect. If -1, all of them.
      seconds: Delay of "stall" and "late".
    """

    match: str
    kind: str
    times: int = 1
    seconds: float = 0.0


@dataclasses.dataclass
class Blob:
    """An object."""

    content: bytes
    generation: int
    metadata: dict
    updated: float

    @property
    def crc32c(self) -> str:
        return checksum(self.content)


def checksum(content: bytes) -> str:
    return base64.b64encode(
        google_crc32c.value(content).to_bytes(4, "big")
    ).decode()


def flip_bit(content: bytes) -> bytes:
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


class StrictServer:
    """The server, in a thread of this process, on loopback."""

    def __init__(
        self,
        *buckets: str,
        stream_bytes_per_second: float = 0.0,
        latency_seconds: float = 0.0,
    ) -> None:
        """Creates a server with empty buckets.

        Args:
          *buckets: Names of the buckets.
          stream_bytes_per_second: Limit for each upload or download. If 0.0,
            none.
          latency_seconds: Delay before each answer.
        """
        self.buckets: dict[str, dict[str, Blob]] = {b: {} for b in buckets}
        self.stream_bytes_per_second = stream_bytes_per_second
        self.latency_seconds = latency_seconds
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self.uploads: dict[str, dict] = {}
        self.generation = int(time.time() * 1e6)
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> "StrictServer":
        self._thread.start()
        return self

    def __exit__(self, *unused) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take_fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.match, request):
                    fault.times -= 1
                    return fault
        return None

    def serve_forever(self) -> None:
        self._server.serve_forever(0.02)


class _QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Ignores errors of killed clients, which the tests expect."""


class _RefusalError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Handler(http.server.BaseHTTPRequestHandler):
    state: StrictServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def do_DELETE(self):
        self.answer()

    def log_message(self, *unused):
        pass

    def answer(self) -> None:
        self.body = self.receive(int(self.headers["content-length"] or 0))
        if self.body is None:
            self.drop()
            return
        time.sleep(self.state.latency_seconds)
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        self.parts = [urllib.parse.unquote(p) for p in url.path.split("/")]
        if url.path == "/faults":  # Only for the tests.
            self.state.faults = [Fault(**f) for f in json.loads(self.body)]
            self.send(200, b"{}")
            return
        name = self.uploaded_name()
        seen = urllib.parse.unquote(f"{self.command} {self.path}{name}")
        self.fault = self.state.take_fault(seen)
        kind = self.fault.kind if self.fault else ""
        if kind == "reset":
            self.drop()
        elif kind.isdigit():
            self.refuse(int(kind), "ordered by a test")
        else:
            if kind == "stall":
                time.sleep(self.fault.seconds)
            try:
                with self.state.lock:
                    status, content, headers = self.handle_api()
            except _RefusalError as error:
                self.refuse(error.code, str(error))
                return
            if kind == "late":
                time.sleep(self.fault.seconds)
            if kind == "reset after":
                self.drop()
            else:
                self.send(status, content, headers)

    def receive(self, size: int) -> bytes | None:
        """Reads a request's body, at the rate limit of a stream.

        Returns:
          The body, or None if the client disconnects early.
        """
        received, start = bytearray(), time.monotonic()
        while len(received) < size:
            piece = self.rfile.read(min(2**20, size - len(received)))
            if not piece:
                return None
            received += piece
            self.pace(len(received), start)
        return bytes(received)

    def transmit(self, content: bytes) -> None:
        """Writes a response's body, at the rate limit of a stream."""
        view, start = memoryview(content), time.monotonic()
        for first in range(0, len(view), 2**20):
            self.wfile.write(view[first : first + 2**20])
            self.pace(min(first + 2**20, len(view)), start)

    def pace(self, size: int, start: float) -> None:
        if rate := self.state.stream_bytes_per_second:
            time.sleep(max(0.0, start + size / rate - time.monotonic()))

    def uploaded_name(self) -> str:
        """Returns the name of the object that a request carries, if any."""
        if self.command == "PUT":
            upload = self.state.uploads.get(self.query.get("upload_id"), {})
            return f" {upload.get('name', '')}"
        if self.query.get("uploadType") == "resumable":
            return f" {json.loads(self.body).get('name')}"
        if self.query.get("uploadType") == "multipart":
            return f" {self.multipart()[0].get('name')}"
        return ""

    def multipart(self) -> tuple[dict, bytes]:
        kind = self.headers["content-type"]
        boundary = re.search(r'boundary="?([^";]+)', kind)[1].encode()
        _, fields, content, _ = self.body.split(b"--" + boundary)
        parser = email.parser.BytesParser(policy=email.policy.default)
        fields = parser.parsebytes(fields.lstrip()).get_payload()
        content = content.partition(b"\r\n\r\n")[2][: -len(b"\r\n")]
        return json.loads(fields), content

    def handle_api(self) -> tuple[int, bytes, dict]:
        kind = self.query.get("uploadType")
        if self.parts[1] == "upload":
            bucket = self.bucket(self.parts[5])
            if self.command == "PUT":
                return self.finish_resumable()
            if kind == "resumable":
                fields = json.loads(self.body)
                self.check_generation(bucket.get(fields["name"]))
                token = uuid.uuid4().hex
                self.state.uploads[token] = {
                    "name": fields["name"],
                    "fields": fields,
                    "query": self.query,
                    "content": bytearray(),
                }
                query = {**self.query, "upload_id": token}
                location = (
                    f"{self.state.url}{self.path.partition('?')[0]}?"
                    + urllib.parse.urlencode(query)
                )
                return 200, b"{}", {"Location": location}
            fields, content = self.multipart()
            return self.store(bucket, fields, content)
        if self.parts[1] == "download":
            return self.download(self.bucket(self.parts[5]), self.parts[7])
        if len(self.parts) == 4 and self.command == "POST":
            name = json.loads(self.body)["name"]
            self.state.buckets.setdefault(name, {})
            return 200, json.dumps({"name": name}).encode(), {}
        bucket = self.bucket(self.parts[4])
        if len(self.parts) == 5:
            fields = {"name": self.parts[4], "location": "US"}
            return 200, json.dumps(fields).encode(), {}
        if len(self.parts) == 6:
            return self.listing(bucket)
        name = "/".join(self.parts[6:])
        if self.command == "POST" and self.parts[-1] == "compose":
            return self.compose(bucket, "/".join(self.parts[6:-1]))
        if "copyTo" in self.parts:
            return self.copy(bucket)
        if name not in bucket:
            raise _RefusalError(404, f"No such object: {name}")
        if self.command == "DELETE":
            self.check_generation(bucket[name])
            del bucket[name]
            return 204, b"", {}
        if self.query.get("alt") == "media":
            return self.download(bucket, name)
        return 200, self.resource(name, bucket[name]), {}

    def bucket(self, name: str) -> dict[str, Blob]:
        if name not in self.state.buckets:
            raise _RefusalError(404, "The specified bucket does not exist.")
        return self.state.buckets[name]

    def check_generation(self, blob: Blob | None, query=None) -> None:
        wanted = (query or self.query).get("ifGenerationMatch")
        if wanted is not None:
            if int(wanted) != (blob.generation if blob else 0):
                raise _RefusalError(412, "conditionNotMet")

    def finish_resumable(self) -> tuple[int, bytes, dict]:
        upload = self.state.uploads[self.query["upload_id"]]
        if (
            "answer" in upload
        ):  # The answer was lost, and the client asks again.
            return upload["answer"]
        # A repeated request begins at the same byte as the first one.
        if match := re.match(
            r"bytes (\d+)-", self.headers.get("content-range", "")
        ):
            del upload["content"][int(match[1]) :]
        upload["content"] += self.body
        total = self.headers["content-range"].rpartition("/")[2]
        if total == "*" or len(upload["content"]) < int(total):
            last = len(upload["content"]) - 1
            return 308, b"", {"Range": f"bytes=0-{last}"}
        bucket = self.bucket(self.parts[5])
        hashes = self.headers.get("x-goog-hash", "")
        if match := re.search(r"crc32c=([^,]+)", hashes):
            upload["fields"].setdefault("crc32c", match[1])
        upload["answer"] = self.store(
            bucket, upload["fields"], bytes(upload["content"]), upload["query"]
        )
        upload["content"].clear()
        return upload["answer"]

    def store(
        self, bucket: dict, fields: dict, content: bytes, query=None
    ) -> tuple[int, bytes, dict]:
        kind = self.fault.kind if self.fault else ""
        self.check_generation(bucket.get(fields["name"]), query)
        if kind in ("corrupt", "lie"):
            content = flip_bit(content)
        declared = fields.get("crc32c")
        if kind != "lie" and declared not in (None, checksum(content)):
            raise _RefusalError(
                400, "Provided CRC32C doesn't match calculated."
            )
        self.state.generation += 1
        blob = Blob(
            content,
            self.state.generation,
            fields.get("metadata") or {},
            time.time(),
        )
        bucket[fields["name"]] = blob
        return 200, self.resource(fields["name"], blob), {}

    def compose(self, bucket: dict, name: str) -> tuple[int, bytes, dict]:
        self.check_generation(bucket.get(name))
        parts = json.loads(self.body)["sourceObjects"]
        content = b"".join(bucket[part["name"]].content for part in parts)
        return self.store(bucket, {"name": name}, content)

    def copy(self, bucket: dict) -> tuple[int, bytes, dict]:
        middle = self.parts.index("copyTo")
        source = "/".join(self.parts[6:middle])
        target = "/".join(self.parts[middle + 4 :])
        if source not in bucket:
            raise _RefusalError(404, f"No such object: {source}")
        blob = bucket[source]
        self.check_generation(
            blob,
            {"ifGenerationMatch": self.query.get("ifSourceGenerationMatch")},
        )
        fields = {"name": target, "metadata": blob.metadata}
        return self.store(bucket, fields, blob.content)

    def download(self, bucket: dict, name: str) -> tuple[int, bytes, dict]:
        if name not in bucket:
            raise _RefusalError(404, f"No such object: {name}")
        blob = bucket[name]
        headers = {
            "X-Goog-Hash": f"crc32c={blob.crc32c}",
            "X-Goog-Generation": str(blob.generation),
            "X-Goog-Stored-Content-Length": str(len(blob.content)),
        }
        damaged = self.fault and self.fault.kind == "corrupt"
        content, status = blob.content, 200
        if match := re.fullmatch(
            r"bytes=(\d+)-(\d*)", self.headers.get("range", "")
        ):
            first, last = int(match[1]), int(match[2] or len(content))
            if first >= len(content):
                raise _RefusalError(416, "Range not satisfiable.")
            content, status = content[first : last + 1], 206
            last = first + len(content) - 1
            headers["Content-Range"] = (
                f"bytes {first}-{last}/{len(blob.content)}"
            )
        return status, flip_bit(content) if damaged else content, headers

    def listing(self, bucket: dict) -> tuple[int, bytes, dict]:
        names = sorted(
            n for n in bucket if n.startswith(self.query.get("prefix", ""))
        )
        # Small pages, so that several are needed.
        start = int(self.query.get("pageToken", 0))
        items = [
            json.loads(self.resource(n, bucket[n]))
            for n in names[start : start + 5]
        ]
        answer = {"items": items}
        if start + 5 < len(names):
            answer["nextPageToken"] = str(start + 5)
        return 200, json.dumps(answer).encode(), {}

    def resource(self, name: str, blob: Blob) -> bytes:
        when = datetime.datetime.fromtimestamp(blob.updated, datetime.UTC)
        return json.dumps(
            {
                "name": name,
                "generation": str(blob.generation),
                "metageneration": "1",
                "size": str(len(blob.content)),
                "crc32c": blob.crc32c,
                "metadata": blob.metadata,
                "updated": when.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
        ).encode()

    def refuse(self, code: int, reason: str) -> None:
        body = {"error": {"code": code, "message": reason}}
        self.send(code, json.dumps(body).encode())

    def send(self, status: int, content: bytes, headers=None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.fault_kind() == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.drop()
        else:
            self.transmit(content)

    def fault_kind(self) -> str:
        fault = getattr(self, "fault", None)
        return fault.kind if fault else ""

    def drop(self) -> None:
        """Resets the connection, as a failing load balancer does."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.connection.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("buckets", nargs="+")
    options.add_argument("--stream_bytes_per_second", type=float, default=0.0)
    options.add_argument("--latency_seconds", type=float, default=0.0)
    given = vars(options.parse_args())
    server = StrictServer(*given.pop("buckets"), **given)
    print(server.url, flush=True)
    server.serve_forever()
