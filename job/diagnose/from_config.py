"""Checks of the fields of a config.

found = check_fields(settings)
found["learning_rate"]              # None, or a Finding
"""

from collections.abc import Callable

from job.diagnose import architecture, recipe
from job.diagnose.finding import Finding
from job.diagnose.settings import Settings

# Name -> check, in the order of the report.
CHECKS: dict[str, Callable[[Settings], Finding | None]] = {
    "no_batch_norm": architecture.check_batch_norm,
    "frozen_base": architecture.check_frozen_base,
    "preprocessing": architecture.check_preprocessing,
    "large_head": architecture.check_large_head,
    "replica_batch": architecture.check_replica_batch,
    "batch_norm_momentum": architecture.check_batch_norm_momentum,
    "over_augmentation": recipe.check_over_augmentation,
    "short_run": recipe.check_budget,
    "constant_rate": recipe.check_constant_rate,
    "no_warmup": recipe.check_warmup,
    "learning_rate": recipe.check_rate_rule,
    "no_augmentation": recipe.check_augmentation,
    "weight_decay": recipe.check_weight_decay,
}


def check_fields(run: Settings) -> dict[str, Finding | None]:
    """Runs all checks of a config.

    Args:
      run: Settings of the run.

    Returns:
      Finding or None of each check, by its name.
    """
    return {name: check(run) for name, check in CHECKS.items()}
