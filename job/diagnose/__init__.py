"""Why is my accuracy low? Checks that look for the known mistakes.

A check is a function of plain values that returns what it found, or None; each
can be used alone, in a notebook.

    finding      what a check returns; the report
    costs        what each mistake costs, and who measured it
    from_config  checks that read fields alone
    from_data    labels, balance, copies, order, preprocessing
    probes       what takes some training steps: can it learn, at which rate
    from_run     a record and a checkpoint
    keras_model  somebody else's model, a .keras file
    diagnosis    all of them on a config, a run or a model
"""
