"""Reports on runs, finished or in progress.

    run               the files of one run, read from its workdir
    charts            curves and diagrams, as SVG
    markup            building blocks of the page
    classification    sections of the page on classes, calibration, mistakes
    page              report of one run: WORKDIR/report.html
    card              model card of an export
    comparison        several runs: a table
    comparison_plots  and its figures

They read the files of a workdir and need neither the model nor the images.
"""
