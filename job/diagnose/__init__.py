"""Diagnosis of a low accuracy by checks for known mistakes.

    from job.diagnose import diagnose_model
    print(diagnose_model(model, x_test, y_test, train=(x_train, y_train)))

A check returns a finding or None, and works in a notebook too.

    diagnosis        all checks of a config, a run or a .keras file
    report_builder   collection of findings, within a time budget
    finding, costs   result of a check, report, cost of each mistake

    from_config      all checks of the fields of a config:
      settings         fields, data and devices of a run
      recipe           learning rate, decay, length, augmentation
      architecture     normalization, head, frozen base
    from_network     all probes of a run's network:
      probes           learning of one batch, dead units
      trial            network that is trained for a few steps
    from_run         metrics, result and accuracies of a run
    from_checkpoint  accuracies of a run's newest checkpoint

    keras_model      all checks of a Keras model:
      keras_file       reader of a .keras file, which may be hostile
      keras_recipe     loss, outputs and learning rate
      keras_layers     activations, normalization, regularization, frozen base
      keras_outputs    pixels and classes that the model expects
      keras_causes     causes that trained copies of the model show:
        keras_trial      copies of the model
    from_data        images and labels of the user
    layers, scoring, pixels, budget
                     layers, outputs, readings of pixels, cost of a probe
"""

from typing import Any

from job.diagnose.finding import Report


def diagnose_model(model: Any, x: Any, y: Any, *, train: Any = None) -> Report:
    """Looks for known mistakes in a Keras model and returns a report.

    The call imports TensorFlow, unlike the import of this package. See
    `keras_model.diagnose` for the arguments.
    """
    from job.diagnose import keras_model

    return keras_model.diagnose(model, x, y, train=train)
