"""Reader of a .keras file that may be hostile.

    loaded = load(pathlib.Path("model.keras"))
    loaded.model, loaded.loss

A .keras file is a zip archive with a description of layers and their weights.
It is read in Keras' safe mode. Before that, every class that it names must be
one of Keras: a Lambda, a custom object or a wrapped model of another library
would run code of the file's author. HDF5 files and pickles are refused.
"""

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import keras

from job import errors

_MAX_BYTES = 2**31
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
# Classes of Keras that run code, or read files, of the file's author.
_REFUSED = frozenset(
    [
        *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),
        *("StringLookup", "IntegerLookup", "TextVectorization"),
    ]
)

# Name of an optimizer that scales the loss of the optimizer that it wraps.
LOSS_SCALE_OPTIMIZER = "LossScaleOptimizer"
# Function names of the classes that a compile config may name instead.
_FUNCTIONS = {
    "SparseCategoricalCrossentropy": "sparse_categorical_crossentropy",
    "CategoricalCrossentropy": "categorical_crossentropy",
    "BinaryCrossentropy": "binary_crossentropy",
    "BinaryAccuracy": "binary_accuracy",
}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model and the description of how it was compiled.

    Attributes:
      model: Model, not compiled.
      compile_config: Compile config of the file. Empty if it has none.
      policy: Name of the model's dtype policy. Empty if the file has none.
    """

    model: keras.Model
    compile_config: Mapping[str, Any]
    policy: str = ""

    @property
    def loss(self) -> str:
        """Name of the loss, in snake case. Empty if there is none."""
        return _name(self.compile_config.get("loss"))

    @property
    def from_logits(self) -> bool:
        """Whether the loss expects logits."""
        loss = self.compile_config.get("loss")
        config = loss.get("config") if isinstance(loss, dict) else None
        return isinstance(config, dict) and bool(config.get("from_logits"))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in snake case where they are functions."""
        metrics = self.compile_config.get("metrics")
        return [_name(metric) for metric in _flat(metrics)]

    @property
    def optimizer(self) -> str:
        """Name of the optimizer, in lower case, or `LOSS_SCALE_OPTIMIZER`.

        Empty if there is none.
        """
        return _name(self.compile_config.get("optimizer"))

    @property
    def optimizer_config(self) -> Mapping[str, Any]:
        """Arguments of the optimizer. Empty if there is none."""
        optimizer = self.compile_config.get("optimizer")
        config = optimizer.get("config") if isinstance(optimizer, dict) else {}
        return config if isinstance(config, dict) else {}


def load(path: pathlib.Path) -> LoadedModel:
    """Reads an image classifier from a .keras file, in safe mode.

    Args:
      path: Path of the file.

    Raises:
      DataError: The file is not a .keras file, is damaged, names a class that
        is not one of Keras, or is not a classifier of images.
    """
    where = f"--keras_model={path}"
    if not path.is_file():
        raise errors.DataError(f"{where}: the file does not exist")
    if path.suffix != ".keras":
        raise errors.DataError(
            f"{where}: only .keras files are read; with the model in memory,"
            ' model.save("model.keras") writes one'
        )
    config = _read_config(path, where)
    _check_classes(config, where)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # Keras passes on any exception of a layer.
        first = (str(error).strip().splitlines() or ["?"])[0][:200]
        raise errors.DataError(
            f"{where} cannot be loaded ({type(error).__name__}: {first})"
        ) from None
    _check_shapes(model, where)
    return LoadedModel(
        model, config.get("compile_config") or {}, _policy(config)
    )


def _read_config(path: pathlib.Path, where: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > _MAX_BYTES:
                raise errors.DataError(
                    f"{where} unpacks to {size:,} bytes; no VGG16 is so large"
                )
            names = set(archive.namelist())
            for name in sorted(names - {*_MEMBERS}):
                raise errors.DataError(
                    f"{where} holds {name[:80]!r}, which a model of layers and"
                    " weights does not need"
                )
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError):
        raise errors.DataError(
            f"{where} is no .keras file: no zip with a config.json in it"
        ) from None
    if not isinstance(config, dict) or not isinstance(
        config.get("compile_config") or {}, dict
    ):
        raise errors.DataError(
            f"{where}: its config.json is not that of a model"
        )
    return config


def _check_classes(config: dict[str, Any], where: str) -> None:
    """Refuses classes that are not Keras', in layers and their arguments.

    A custom loss or metric is accepted, as it is never loaded.
    """
    pending: list[Any] = [
        {k: v for k, v in config.items() if k != "compile_config"}
    ]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        if not isinstance(value, dict):
            continue
        pending.extend(value.values())
        name = value.get("class_name")
        if name is None:
            continue
        module = value.get("module") or "keras"
        is_keras = str(module).split(".")[0] == "keras"
        is_plain = module == "builtins" and name in ("dict", "list", "tuple")
        if name in _REFUSED or not (is_keras or is_plain):
            raise errors.DataError(
                f"{where}: {module}.{name} is code of the file's author, and is"
                " not run; replace it by layers of Keras"
            )


def _check_shapes(model: keras.Model, where: str) -> None:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise errors.DataError(
            f"{where} has {len(model.inputs)} inputs and {len(model.outputs)}"
            " outputs; a classifier has one of each"
        )
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[-1] != 3:
        raise errors.DataError(
            f"{where} takes {list(shape)}; it must be images, [None, height,"
            " width, 3]"
        )
    shape = tuple(model.outputs[0].shape)
    if len(shape) != 2:
        raise errors.DataError(
            f"{where} gives {list(shape)}; it must be a number a class,"
            " [None, 10]: after convolutions, Flatten or pooling makes it that"
        )


def _policy(config: Mapping[str, Any]) -> str:
    """Returns the name of the model's dtype policy, if the file has it.

    Files of a Sequential model have it, those of a functional model do not.
    """
    inner = config.get("config")
    policy = inner.get("dtype") if isinstance(inner, dict) else None
    if isinstance(policy, dict):
        return str((policy.get("config") or {}).get("name", ""))
    return policy if isinstance(policy, str) else ""


def _flat(value: Any) -> list[Any]:
    """Returns metrics as one list, however they are nested."""
    if isinstance(value, dict) and "class_name" not in value:
        value = list(value.values())
    if isinstance(value, list):
        return [inner for entry in value for inner in _flat(entry)]
    return [] if value is None else [value]


def _name(value: Any) -> str:
    """Returns the name of a loss, metric or optimizer, in any of its forms."""
    if isinstance(value, str):
        return value.lower()
    if not isinstance(value, dict):
        return ""
    config = value.get("config")
    if value.get("class_name") == LOSS_SCALE_OPTIMIZER:
        return LOSS_SCALE_OPTIMIZER
    if isinstance(config, dict) and value.get("class_name") != "function":
        name = str(value.get("class_name"))
        return _FUNCTIONS.get(name, name.lower())
    return str(config).lower()
