"""Checks, presets, storage and comparison of a run's config.

    ranges         valid values of each field, and valid combinations
    augmentation   presets and strengths of the augment group
    serialization  a config as flat or nested JSON values
    run_config     the config of an existing run, in its workdir
    resume         fields that may change when a run is resumed

No module imports TensorFlow.
"""
