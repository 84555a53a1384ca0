"""Reader of a .keras file that may be hostile.

    model = load(pathlib.Path("model.keras"))
    model.optimizer, model.loss

A .keras file is a zip archive with a description of layers and their weights.
It is read in Keras' safe mode. Before that, every class that it names must be
one of Keras: a Lambda, a custom object or a wrapped model of another library
would run code of the file's author. HDF5 files, SavedModel folders and pickles
are refused.
"""

import json
import pathlib
import zipfile
from typing import Any

import keras

from job import errors
from job.storage import files

_MAX_BYTES = 2**31
_MAX_CONFIG_BYTES = 2**26
_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
# Classes of Keras that run code, or read files, of the file's author.
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
# What to do with a file of another kind.
_OTHER_FILES = {
    ".h5": 'keras.models.load_model("FILE.h5").save("model.keras")',
    ".hdf5": 'keras.models.load_model("FILE.hdf5").save("model.keras")',
    "": 'model.save("model.keras") in the script that has the model',
}


def load(path: pathlib.Path) -> keras.Model:
    """Reads an image classifier from a .keras file, in safe mode.

    Args:
      path: Path of the file.

    Returns:
      Model, compiled unless the file has no compile config, or one that names
      code of the file's author.

    Raises:
      DataError: The file is not a .keras file, is damaged, names a class that
        is not one of Keras, or is not a classifier of images.
    """
    where = f"--keras_model={path}"
    with files.translate_errors(where, kind=errors.DataError):
        if not path.exists():
            raise errors.DataError(f"{where}: the file does not exist")
        is_special = not path.is_dir() and not path.is_file()
    if is_special:
        raise errors.DataError(f"{where} is not a regular file")
    if path.is_dir() or path.suffix != ".keras":
        kind = "a folder, not" if path.is_dir() else "not"
        suffix = "" if path.is_dir() else path.suffix
        fix = _OTHER_FILES.get(suffix, _OTHER_FILES[""])
        raise errors.DataError(f"{where}: {kind} a .keras file. Fix: {fix}")
    config = _read_config(path, where)
    compiled = config.pop("compile_config", None)
    if refused := _foreign_class(config):
        hint = _IN_MEMORY
        if refused.endswith("Lambda"):
            hint = "Fix: keras.layers.Rescaling(1 / 255) in its place"
        raise errors.DataError(
            f"{where}: {refused} is code of the file's author, and is not run."
            f" {hint}"
        )
    try:
        # With a custom loss the model is loaded without compiling it.
        model = keras.saving.load_model(
            path, compile=not _foreign_class(compiled), safe_mode=True
        )
    except Exception as error:
        # Keras passes on any exception of a layer.
        raise errors.DataError(
            f"{where} cannot be loaded ({type(error).__name__}:"
            f" {errors.first_line(error)})"
        ) from None
    if problem := shape_problem(model):
        raise errors.DataError(f"{where} {problem}")
    return model


def _read_config(path: pathlib.Path, where: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            description = archive.getinfo("config.json").file_size
            if size > _MAX_BYTES or description > _MAX_CONFIG_BYTES:
                raise errors.DataError(
                    f"{where} unpacks to {size:,} bytes, more than any VGG16"
                )
            for name in sorted(set(archive.namelist()) - _MEMBERS):
                raise errors.DataError(
                    f"{where}: contains {name[:80]!r}, which a model of layers"
                    " and weights does not need"
                )
            config = json.loads(archive.read("config.json"))
    except errors.JobError:
        raise
    except Exception:  # A damaged zip archive raises many.
        raise errors.DataError(
            f"{where} is not a .keras file: no zip with a config.json in it"
        ) from None
    if not isinstance(config, dict):
        raise errors.DataError(
            f"{where}: its config.json is not that of a model"
        )
    return config


def _foreign_class(config: Any) -> str:
    """Returns a class or function that is not one of Keras, or "".

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
        # Keras resolves a dotted name, too.
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
    """Returns whether Keras has a loss, metric or activation of a name."""
    return isinstance(name, str) and (
        hasattr(keras.losses, name)
        or hasattr(keras.metrics, name)
        or hasattr(keras.activations, name)
    )


def shape_problem(model: keras.Model) -> str:
    """Returns why a model is not a classifier of RGB images, or "".

    Args:
      model: Model that was built.
    """
    try:
        model.inputs[0], model.outputs[0]
    except (AttributeError, LookupError, TypeError, ValueError):
        return "has no inputs yet. Fix: fit or build it before model.save"
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return (
            f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs;"
            " a classifier has one of each"
        )
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4 or shape[-1] != 3:
        return (
            f"takes {list(shape)}; it must be images, [None, height, width, 3]"
        )
    shape = tuple(model.outputs[0].shape)
    if len(shape) != 2:
        return (
            f"gives {list(shape)}; it must be a number per class, [None, 10]:"
            " after convolutions, Flatten or pooling makes it that"
        )
    return ""
