"""Reports on runs, finished or in progress.

    run         files of one run, read from its workdir
    charts      curves, bars and diagrams
    render      templates, and the escaping of names
    page        report of one run, WORKDIR/report.html
    comparison  report of several runs, WORKDIR/compare.html
    card        model card of an export

The templates are the .j2 files of this folder. Reports need the files of a
workdir, but neither the model nor the images.
"""
