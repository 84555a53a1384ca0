"""File format, readable by safetensors and refused if it is damaged."""

import io
import json

import google_crc32c
import numpy as np
import pytest
import safetensors.numpy

from job.checkpoint import format as format_lib
from job.checkpoint import store
from job.checkpoint.format import InvalidCheckpointError

MUTATIONS = 2500
RUN = {"seed": 0, "config": {"a.b": 1.5}, "resumes": 2, "starts": [{"step": 0}]}


def tensors(value: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "step": np.array(int(value), np.int64),
        "model/kernel": rng.standard_normal((3, 4), np.float32),
        "model/empty": np.zeros((0, 5), np.float32),
        "metrics_log": np.frombuffer(b'{"step": 1}', np.uint8),
        "count": np.arange(3, dtype=np.int32),
    }


def encode(**changes) -> bytes:
    content = format_lib.encode(
        **{"step": 7, "tensors": tensors(7), "run": RUN, **changes}
    )
    return b"".join(piece.tobytes() for piece in content)


def read(content: bytes):
    file = io.BytesIO(content)
    header = format_lib.read_header(file, len(content))
    return header, format_lib.read_tensors(file, header)


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape


def test_encoded_tensors_are_read_back():
    header, found = read(encode())
    assert (header.step, header.run) == (7, RUN)
    assert_equal(found, tensors(7))


def test_safetensors_opens_a_checkpoint(tmp_path):
    store.CheckpointStore(tmp_path).save(7, tensors(7), RUN)
    path = tmp_path / store.file_name(7)
    assert_equal(safetensors.numpy.load_file(path), tensors(7))
    with safetensors.safe_open(path, "numpy") as file:
        (text, checksum) = (
            file.metadata()[n] for n in ("checkpoint", "crc32c")
        )
    assert json.loads(text)["run"] == RUN
    assert checksum == f"{google_crc32c.value(text.encode()):08x}"


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips bits, or truncates, extends, overwrites or repeats a part."""
    damaged = bytearray(content)
    kind = rng.integers(6)
    at = int(rng.integers(len(damaged)))
    length = int(rng.integers(1, 40))
    if kind <= 1:
        for _ in range(rng.integers(1, 9)):
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del damaged[at:]
    elif kind == 3:
        damaged += rng.bytes(length)
    elif kind == 4:
        damaged[at : at + length] = rng.bytes(length)
    else:
        damaged[at:at] = damaged[at : at + length]
    return bytes(damaged)


def test_mutated_files_are_refused_and_the_one_before_is_used(tmp_path, caplog):
    """Damages the newest of two checkpoints; the reader owns the run."""
    made = store.CheckpointStore(tmp_path)
    made.save(6, tensors(6), RUN)
    intact = encode()
    path = tmp_path / store.file_name(7)
    rng = np.random.default_rng(0)
    mutated = 0
    while mutated < MUTATIONS:
        content = mutate(intact, rng)
        if content == intact:
            continue
        path.write_bytes(content)
        found, _ = made.restore_newest()
        assert found.step == 6
        (aside,) = tmp_path.glob(f"{path.name}{store.SET_ASIDE}*")
        assert aside.read_bytes() == content
        aside.unlink()
        mutated += 1
        caplog.clear()


def forge(**changes) -> bytes:
    """Returns a file whose metadata has other fields and a valid crc32c."""
    content = encode()
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    fields = json.loads(table["__metadata__"]["checkpoint"])
    for name, value in changes.items():
        *path, last = name.split("__")
        inner = fields
        for part in path:
            inner = inner[part]
        inner[last] = value
    return sign(table, json.dumps(fields), content[8 + length :])


def sign(table: dict, text: str, data: bytes) -> bytes:
    table["__metadata__"] = {
        "checkpoint": text,
        "crc32c": f"{google_crc32c.value(text.encode()):08x}",
    }
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


FORGED = {
    "format": "99",
    "format ": 1,
    "step": 1e400,
    "step ": -1,
    "step  ": "7",
    "run": [],
    "run__config": [],
    "run__resumes": "x",
    "run__starts": 5,
    "run__starts ": ["x"],
    "run__rollbacks": ["x"],
    "run__train_seconds": "1",
    "run__data_crc32c": 5,
    "tensors": 7,
    "tensors ": [],
    "tensors__count": {},
    "tensors__count__dtype": "F64",
    "tensors__count__dtype ": [],
    "tensors__count__shape": 3,
    "tensors__count__shape ": [2],
    "tensors__count__shape  ": [3.0],
    "tensors__count__shape   ": [-3],
    "tensors__count__shape    ": [2**64],
    "tensors__count__shape     ": [3] + [1] * 70,
    "tensors__model/empty__shape": [0, 2**62],
    "tensors__count__crc32c": "0",
    "tensors__count__crc32c ": None,
    "tensors__count?": 5,
    "tensors__count ": 5,
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_metadata_is_refused(name):
    content = forge(**{name.rstrip(): FORGED[name]})
    with pytest.raises(InvalidCheckpointError):
        read(content)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"format": ' + "9" * 5000 + "}",
        '{"format": 2, "step": Infinity, "run": {}, "tensors": {}}',
        '"\\ud800"',
        "[]",
        "",
    ],
)
def test_hostile_json_is_refused(text):
    with pytest.raises(InvalidCheckpointError):
        read(sign({}, text, b""))
    content = text.encode()
    with pytest.raises(InvalidCheckpointError):
        read(len(content).to_bytes(8, "little") + content)


def test_an_unchanged_forgery_is_a_checkpoint():
    """Each forgery above is refused for its own change only."""
    assert read(forge())[0].step == 7


def test_a_wrong_size_allocates_nothing(monkeypatch):
    content = forge(**{"tensors__count__shape": [2**31, 4]})
    monkeypatch.setattr(np, "empty", lambda *unused: pytest.fail("allocated"))
    with pytest.raises(
        InvalidCheckpointError, match=r"bytes, not|do not match"
    ):
        read(content)
    for length in (0, 2**20, 2**63):
        start = length.to_bytes(8, "little")
        with pytest.raises(InvalidCheckpointError, match="header is missing"):
            read(start + content[8:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(value):
    """The job saves only finite numbers, so any other is forged."""
    wrong = {**tensors(), "model/kernel": np.full((3, 4), value, np.float32)}
    with pytest.raises(InvalidCheckpointError, match="model/kernel is not fin"):
        read(encode(tensors=wrong))


def test_a_newer_format_is_not_damage():
    with pytest.raises(format_lib.NewerFormatError, match="format 3"):
        read(forge(format=3, tensors="laid out in another way"))
