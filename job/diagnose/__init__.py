"""Diagnosis of a low accuracy: checks that look for the known mistakes.

A check is a function of plain values that returns a finding or None. Each can
be used alone, in a notebook.

    diagnosis        all checks of a config, a run or a Keras model
    report_builder   collection of findings, within a budget of time
    finding, costs   result of a check, the report, the cost of each mistake

    from_config      all checks of the fields of a config:
      recipe           rates, decay, length, augmentation, precision
      architecture     normalization, head, frozen base
    from_data        labels, balance, copies, order, augmentation
    from_network     all probes of a run's network:
      probes           can it learn one batch, are units dead, is it fast
      range_test       at which learning rate does it learn
      trial            the network, trained for a few steps
    from_run         metrics, result and accuracies of a run
    from_checkpoint  accuracies of a run's newest checkpoint
    keras_model      checks of a .keras file:
      keras_file       reader of the file, which may be hostile
      scoring          predictions and their scores
    layers, pixels, budget
                     layers of a Keras model, scales of pixels, cost of a probe
"""
