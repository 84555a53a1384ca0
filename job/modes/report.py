"""Mode report, which writes the page of each run, and their comparison."""

import contextlib
import os
import pathlib
from collections.abc import Sequence

from job import errors
from job.modes import Outcome
from job.storage import workdir as workdirs
from job.storage.workdir import ABLATION, COMPARE_PAGE, CONFIG, REPORT


def run(names: Sequence[str]) -> Outcome:
    """Writes the report of each run, and the comparison of several runs.

    Args:
      names: Workdirs of runs or of an ablation. The first one receives the
        comparison and need not contain a run.

    Raises:
      ConfigError: A workdir contains neither a run nor an ablation.
    """
    from job.report import comparison, page
    from job.report import run as run_lib

    # A workdir that is given twice is one run.
    unique: dict[str, str] = {}
    for name in names:
        unique.setdefault(_identity(name), name)
    names = [*unique.values()]
    output = []
    with contextlib.ExitStack() as opened:
        found = [
            opened.enter_context(workdirs.open_workdir(name)) for name in names
        ]
        first = found[0]
        runs = [each for each in found if run_lib.is_run(each.local)]
        for workdir in found:
            known = workdir in runs or (workdir.local / ABLATION).exists()
            # The first workdir may be for the comparison only.
            if not known and (workdir is not first or len(found) == 1):
                raise errors.ConfigError(
                    f"--workdir={workdir}: neither {CONFIG} of a run nor"
                    f" {ABLATION} of an ablation found. Fix: choose the workdir"
                    " of a run or an ablation"
                )
            if workdir.mirror and (workdir.local / ABLATION).exists():
                raise errors.ConfigError(
                    f"--workdir={workdir}: an ablation in a bucket cannot be"
                    " compared. Fix: copy it to a folder, with"
                    f" `gcloud storage cp -r {workdir} DIR`"
                )
        for workdir in runs:
            workdir.check_writable()
            page.write(workdir)
            output.append(f"{workdir.file(REPORT)}")
        if len(found) > 1 or first not in runs:
            first.check_writable()
            full = [str(workdir) for workdir in found]
            short = [pathlib.PurePath(name).name for name in full]
            # seed-0 of one workdir and seed-0 of another are two runs.
            is_unique = len({*short}) == len(short)
            table = comparison.write_report(
                [workdir.local for workdir in found],
                short if is_unique else full,
                links=not any(workdir.mirror for workdir in found),
            )
            output += [table, first.file(COMPARE_PAGE)]
        for workdir in found:
            workdir.push()
    return Outcome(output)


def _identity(name: str) -> str:
    """Returns a name that is equal for all spellings of a workdir."""
    if name.startswith("gs://"):
        return name.rstrip("/")
    return os.path.realpath(os.path.expanduser(name))
