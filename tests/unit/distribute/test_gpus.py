"""Tests of GPU checks, with a fake driver and compute capability."""

import ctypes

import pytest
import tensorflow as tf

from job import errors
from job.distribute import gpus

PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Jan  1 00:00:00"
    " UTC 2025\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release"
    " Build  (builder@host)\n"
)


class Library:
    """libcuda.so.1 of a CUDA version, or none at all."""

    def __init__(self, version):
        if version is None:
            raise OSError
        self.version = version[0] * 1000 + version[1] * 10

    def cuDriverGetVersion(self, pointer):  # noqa: N802
        pointer._obj.value = self.version
        return 0


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Returns a function that fakes a GPU and its driver, and checks them."""

    def check(capability, driver, cuda=None, precision="bfloat16"):
        details = {"device_name": "GPU X", "compute_capability": capability}
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda gpu: details
        )
        (tmp_path / "version").write_text(driver)
        monkeypatch.setattr(gpus, "DRIVER", tmp_path / "version")
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(cuda))
        device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
        gpus.check([device, device], precision=precision)

    return check


@pytest.mark.parametrize("file", [PROPRIETARY, OPEN])
@pytest.mark.parametrize("release", ["535.104.05", "550.54"])
def test_an_old_driver_fails_on_hopper(install, file, release):
    with pytest.raises(errors.DeviceError) as raised:
        install((9, 0), file.format(release))
    message = str(raised.value)
    assert release in message
    assert "GPU X (compute capability 9.0)" in message
    assert "Fix: install driver R555 or newer" in message
    assert raised.value.exit_code == 69


@pytest.mark.parametrize(
    ("capability", "driver", "cuda"),
    [
        ((9, 0), PROPRIETARY.format("555.42"), None),
        # The kernel module is older than the compatibility library.
        ((9, 0), PROPRIETARY.format("535.104"), (12, 5)),
        ((8, 9), PROPRIETARY.format("535.104"), (12, 2)),
        ((8, 0), PROPRIETARY.format("525.60"), None),
        ((9, 0), "unknown", None),
        (None, "unknown", None),
    ],
)
def test_a_recent_or_unknown_driver_passes(
    install, caplog, capability, driver, cuda
):
    install(capability, driver, cuda)
    assert not caplog.text


def test_an_old_library_fails_with_any_file(install):
    with pytest.raises(errors.DeviceError, match="too old"):
        install((9, 0), PROPRIETARY.format("570.86"), (12, 4))


@pytest.mark.parametrize("capability", [(10, 0), (12, 0)])
def test_blackwell_causes_one_warning(install, caplog, capability):
    install(capability, OPEN.format("580.65"), (13, 0))
    (record,) = caplog.records
    assert "Compiling kernels for GPU X" in record.message
    assert "NVIDIA's TensorFlow container" in record.message


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
def test_bfloat16_on_an_old_gpu_causes_a_warning(install, caplog, capability):
    install(capability, OPEN.format("580.65"), (13, 0))
    assert "Fix: set --config.precision=float16" in caplog.text
    caplog.clear()
    install(capability, OPEN.format("580.65"), (13, 0), precision="float16")
    assert not caplog.text
