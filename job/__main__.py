"""Entry point of `python -m job`, equal to `python -m job.main`."""

import runpy

runpy.run_module("job.main", run_name="__main__", alter_sys=True)
