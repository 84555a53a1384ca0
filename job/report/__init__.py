"""What people read of runs, once they are over or while they go on.

    predictions   each scored image's probabilities, and figures made of them
    charts        curves and diagrams, as SVG
    run           what a workdir holds of one run
    page          one run: WORKDIR/report.html
    card          the model card of an export
    compare       several runs: a table and pictures

They read what lies in a workdir, and need neither the model nor the images.
"""
