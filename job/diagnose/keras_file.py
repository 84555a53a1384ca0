"""Reader of a .keras file that may be hostile.

    model = load(pathlib.Path("model.keras"))
    model.optimizer, model.loss

A .keras file is a zip archive with a description of layers and their weights.
It is read in Keras' safe mode. A Lambda, a custom object or a wrapped model of
another library would run code of the file's author. A file with classes from
outside Keras is therefore refused, as are HDF5 files, SavedModel folders and
pickles.
"""

import json
import pathlib
import zipfile
from typing import Any

import keras
import tensorflow as tf

from job import errors
from job.storage import files

_MAX_BYTES = 2**31
_MAX_CONFIG_BYTES = 2**26
_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
# Classes of Keras that run code of the file's author or read other files.
_REFUSED = frozenset(
    [
        *("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),
        *("StringLookup", "IntegerLookup", "TextVectorization"),
    ]
)
_IN_MEMORY = (
    "Fix: keep the layer and run job.diagnose.diagnose_model in the script"
    " that has the model"
)
# Fix for a file of another format, by its suffix.
_OTHER_FILES = {
    ".h5": 'run keras.models.load_model("FILE.h5").save("model.keras")',
    ".hdf5": 'run keras.models.load_model("FILE.hdf5").save("model.keras")',
    "": 'call model.save("model.keras") in the script that has the model',
}


def load(path: pathlib.Path) -> keras.Model:
    """Reads an image classifier from a .keras file in safe mode.

    Args:
      path: Path of the file.

    Returns:
      Model, which is compiled if the file has a compile config without code of
      the file's author.

    Raises:
      DataError: The file is damaged or not a .keras file, names a class from
        outside Keras, or is not a classifier of images.
    """
    where = f"--keras_model={path}"
    with files.translate_errors(where, kind=errors.DataError):
        if not path.exists():
            raise errors.DataError(
                f"{where}: the file does not exist. Fix: correct the path"
            )
        is_special = not path.is_dir() and not path.is_file()
    if is_special:
        raise errors.DataError(
            f"{where}: the path is not a regular file. Fix: choose a .keras"
            " file"
        )
    if path.is_dir() or path.suffix != ".keras":
        is_not = "path is a folder, not" if path.is_dir() else "file is not"
        suffix = "" if path.is_dir() else path.suffix
        fix = _OTHER_FILES.get(suffix, _OTHER_FILES[""])
        raise errors.DataError(
            f"{where}: the {is_not} a .keras file. Fix: {fix}"
        )
    config = _read_config(path, where)
    compiled = config.pop("compile_config", None)
    if refused := _foreign_class(config):
        hint = _IN_MEMORY
        if refused.endswith("Lambda"):
            hint = (
                "Fix: use keras.layers.Rescaling(1 / 255) instead, or run"
                " job.diagnose.diagnose_model in the script"
            )
        raise errors.DataError(
            f"{where}: {refused} is code of the file's author and is not run."
            f" {hint}"
        )
    try:
        # With a custom loss the model is loaded without compiling it.
        model = keras.saving.load_model(
            path, compile=not _foreign_class(compiled), safe_mode=True
        )
    except (tf.errors.ResourceExhaustedError, MemoryError):
        raise
    except Exception as error:
        # Any exception of a layer may arrive here.
        raise errors.DataError(
            f"{where}: the model cannot be loaded ({type(error).__name__}:"
            f" {errors.first_line(error)}). Fix: {_OTHER_FILES['']}"
        ) from None
    if problem := shape_problem(model):
        raise errors.DataError(f"{where}: the model {problem}")
    return model


def _read_config(path: pathlib.Path, where: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            description = archive.getinfo("config.json").file_size
            if size > _MAX_BYTES or description > _MAX_CONFIG_BYTES:
                raise errors.DataError(
                    f"{where}: the unpacked file has {size:,} bytes, more than"
                    " any VGG16. Fix: choose a smaller model"
                )
            for name in sorted(set(archive.namelist()) - _MEMBERS):
                raise errors.DataError(
                    f"{where}: the archive contains {name[:80]!r}, which a"
                    f" model does not need. Fix: {_OTHER_FILES['']}"
                )
            config = json.loads(archive.read("config.json"))
    except errors.JobError:
        raise
    except Exception:  # A damaged archive raises exceptions of many types.
        raise errors.DataError(
            f"{where}: the file is not a zip archive with a config.json. Fix:"
            f" {_OTHER_FILES['']}"
        ) from None
    if not isinstance(config, dict):
        raise errors.DataError(
            f"{where}: config.json does not describe a model. Fix:"
            f" {_OTHER_FILES['']}"
        )
    return config


def _foreign_class(config: Any) -> str:
    """Returns the name of a class or function from outside Keras, or "".

    Args:
      config: Description of a model, or of its compilation.
    """
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        if not isinstance(value, dict):
            continue
        pending.extend(value.values())
        if value.get("class_name") is None:
            continue
        # Keras also resolves dotted names.
        name = str(value["class_name"]).rpartition(".")[2]
        module = str(value.get("module") or "keras")
        is_keras = module.split(".")[0] == "keras"
        if name == "function" and not _is_loss(value.get("config")):
            return f"{module}.{value.get('config')}"
        is_plain = module == "builtins" and (
            name in ("dict", "list", "tuple")
            or (name == "function" and _is_loss(value.get("config")))
        )
        if name in _REFUSED or not (is_keras or is_plain):
            return f"{module}.{name}"
    return ""


def _is_loss(name: Any) -> bool:
    """Returns whether a loss, metric or activation of Keras has a name."""
    return isinstance(name, str) and (
        hasattr(keras.losses, name)
        or hasattr(keras.metrics, name)
        or hasattr(keras.activations, name)
    )


def shape_problem(model: keras.Model) -> str:
    """Returns the reason why a model cannot classify RGB images, or "".

    Args:
      model: Keras model.
    """
    try:
        model.inputs[0], model.outputs[0]
    except (AttributeError, LookupError, TypeError, ValueError):
        return "is not built. Fix: fit or build it before model.save"
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return (
            f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs."
            " Fix: choose a classifier with one of each"
        )
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[-1] != 3:
        return (
            f"has inputs {list(shape)}. Fix: choose a model of images, [None,"
            " height, width, 3]"
        )
    shape = tuple(model.outputs[0].shape)
    if len(shape) != 2:
        return (
            f"has outputs {list(shape)}, not [None, classes]. Fix: add Flatten"
            " or pooling after the convolutions"
        )
    return ""
