"""Configs to compile, and limits of their programs.

`make test-gpu-ready GPU_READY=update` measures the limits again and writes them
into limits.json and the table of docs/performance.md.
"""

import dataclasses
import importlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from tests.gpu_ready.program import Program

LIMITS = pathlib.Path(__file__).with_name("limits.json")
T4 = str(pathlib.Path(__file__).with_name("t4.pbtxt"))
PARTS = ("augment", "pass", "update")

# The next patch release of XLA may fuse the same program differently.
_TOLERANCE = 1.02

# XLA's names of types.
_TYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A config to compile.

    Attributes:
      name: Name in the table.
      config: File of configs/ and its variant.
      changes: Fields to change.
      replicas: Number of replicas.
      phase: Index of the phase of the run.
      others: GPUs to compile the pass for, besides the H100.
      is_small: Whether it is part of the small form of the test.
    """

    name: str
    config: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    replicas: int = 1
    phase: int = -1
    others: Sequence[str] = ()
    is_small: bool = False

    def create_config(self) -> ml_collections.ConfigDict:
        """Returns the config, with XLA and synthetic images."""
        file, _, variant = self.config.partition(":")
        module = importlib.import_module(f"configs.{file}")
        config = module.get_config(*([variant] if variant else []))
        fields = {"jit_compile": "on", "data.source": "synthetic"}
        config.update_from_flattened_dict({**fields, **self.changes})
        return config


_LARGE = {"global_batch_size": 1024}
CASES = (
    Case("quickstart", "quickstart", is_small=True),
    Case("stem32", "stem32"),
    # 10ep is the same program.
    Case("stem32:20ep", "stem32:20ep"),
    Case("stem32:20ep, 24 px", "stem32:20ep", phase=0),
    Case("default", "default", _LARGE, others=("a100", T4), is_small=True),
    Case("stem32:100ep", "stem32:100ep", _LARGE),
    Case("stem32:200ep", "stem32:200ep", _LARGE, others=("a100", T4)),
    Case("transfer:gradual", "transfer:gradual"),
    Case("upsample:64", "upsample:64"),
    Case(
        "all augmentations",
        "default",
        {
            **_LARGE,
            "augment.rotation_degrees": 15.0,
            "augment.zoom": 0.1,
            "augment.brightness": 0.4,
            "augment.contrast": 0.4,
            "augment.saturation": 0.4,
            "augment.hue": 0.1,
            "augment.autoaugment": 0.5,
            "augment.randaugment_magnitude": 3.0,
            "augment.mixup_alpha": 0.2,
            "augment.cutmix_probability": 0.5,
        },
        is_small=True,
    ),
    Case(
        "float16",
        "default",
        {**_LARGE, "precision": "float16"},
        others=(T4,),
    ),
    Case("float32", "default", {**_LARGE, "precision": "float32"}),
    Case("2 replicas", "default", _LARGE, replicas=2),
)


def program_errors(program: Program, *, part: str, precision: str) -> list[str]:
    """Returns what makes a program slow on an H100 or A100.

    Args:
      program: Optimized program.
      part: augment, pass or update.
      precision: Precision of the pass.
    """
    slow = {
        # The host waits for each of these.
        "conditional": "a condition",
        "while": "a loop, as of a scatter one element after another",
        "sort": "a sort",
    }
    if part == "pass":
        slow["scatter"] = "a scatter with atomic additions"
    found = [f"{what} ({op})" for op, what in slow.items() if program.count(op)]
    if part == "pass" and precision != "float32":
        # Tensor cores need 16-bit images with channels last.
        wanted = f"{_TYPES[precision]} b01f"
        found += [
            f"a convolution of {kind}, not {wanted}"
            for kind in sorted(set(program.convolutions) - {wanted})
        ]
    return found


def limit_errors(
    measured: dict[str, float], limits: dict[str, float]
) -> list[str]:
    """Returns the figures of a program that exceed their limits."""
    return [
        f"{name}: {value:g}, above {limits[name]:g}"
        for name, value in measured.items()
        if name in limits and value > limits[name] * _TOLERANCE
    ]


def read_limits() -> dict[str, dict[str, dict[str, float]]]:
    """Returns the stored figures by case, and by part and GPU."""
    return json.loads(LIMITS.read_text())
