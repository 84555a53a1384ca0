"""Mode benchmark, which measures the speed of a config on this machine."""

import contextlib
import math
import statistics
from typing import TYPE_CHECKING, Any

import ml_collections

from job import errors
from job.config import resume, serialization
from job.modes import Outcome
from job.storage import Storage, files
from job.storage import workdir as workdirs
from job.storage.workdir import BENCHMARK
from job.supervision import startup
from job.supervision.preemption import StopRequest

if TYPE_CHECKING:  # Imports TensorFlow.
    from job.modes.measurements import Measured


def run(
    config: ml_collections.ConfigDict,
    workdir_name: str | None,
    stop: StopRequest,
    *,
    upload_seconds: float,
    **measuring: Any,
) -> Outcome:
    """Measures the speed of a config and returns a table.

    Args:
      config: Checked config. Its strategy must not be multi_worker.
      workdir_name: Workdir for benchmark.json and the timed saves. If None,
        nothing is kept.
      stop: Stop request, polled between two rounds.
      upload_seconds: Interval between two uploads to a gs:// workdir, in
        seconds.
      **measuring: Further arguments of `measurements.measure`.
    """
    if config.distribute.strategy == "multi_worker":
        raise errors.ConfigError(
            "--config.distribute.strategy=multi_worker: --mode=benchmark"
            " measures one node. Fix: use --config.distribute.strategy=auto"
        )
    startup.import_tensorflow()
    from job.modes import measurements

    with contextlib.ExitStack() as opened:
        opened.enter_context(
            startup.translate_out_of_memory(serialization.flatten(config))
        )
        storage: Storage | None = None
        if workdir_name:
            workdir = opened.enter_context(workdirs.open_workdir(workdir_name))
            opened.enter_context(workdir.uploading(seconds=upload_seconds))
            workdir.check_writable()
            storage = workdir.storage("benchmark")
        measured = measurements.measure(
            config, stop, storage=storage, **measuring
        )
        report = summarize(config, measured)
        if workdir_name:
            workdir.local.mkdir(parents=True, exist_ok=True)
            files.write_json(workdir.local / BENCHMARK, report)
    return Outcome([_table(report)])


def summarize(
    config: ml_collections.ConfigDict, measured: "Measured"
) -> dict[str, Any]:
    """Returns the contents of `benchmark.json`."""
    plan, bare = measured.plan, measured.bare
    images = measured.steps * config.global_batch_size
    step_seconds = statistics.median(bare) / measured.steps
    # An epoch may be too short for a save per epoch.
    every = plan.checkpoint_every_steps
    every *= max(1, math.ceil(plan.checkpoint_seconds / (every * step_seconds)))
    stall = statistics.median(measured.stalls)
    flops = measured.step_tflop * measured.steps / measured.replicas
    return {
        "config_hash": resume.fingerprint(serialization.flatten(config)),
        "hardware": measured.hardware,
        "replicas": measured.replicas,
        "global_batch_size": config.global_batch_size,
        "precision": config.precision,
        "model_width": config.model.width,
        "input_size": plan.phases[0].input_size,
        "rounds": len(bare),
        "steps_a_round": measured.steps,
        "step_images_per_second": _spread([images / b for b in bare]),
        "job_images_per_second": _spread([images / j for j in measured.job]),
        "augment_images_per_second": _spread(
            [images / a for a in measured.augmenting]
        ),
        "input_images_per_second": _spread(measured.input_rates),
        "evaluate_images_per_second": _spread(
            [measured.test_images / seconds for seconds in measured.evaluating]
        ),
        "step_tflop": measured.step_tflop,
        "matrix_product_tflops": _spread(measured.matrix_tflops),
        "model_flop_utilization": _spread(
            [
                flops / b / rate
                for b, rate in zip(bare, measured.matrix_tflops, strict=True)
            ]
        ),
        "augment_share_of_step": _spread(
            [a / b for b, a in zip(bare, measured.augmenting, strict=True)]
        ),
        "loop_overhead": _spread(
            [j / b - 1 for b, j in zip(bare, measured.job, strict=True)]
        ),
        "save_to": measured.save_to,
        "save_bytes": measured.commits[0][0],
        "save_stall_seconds": _spread(measured.stalls),
        "save_seconds": _spread([seconds for _, seconds in measured.commits]),
        "save_every_steps": every,
        "save_overhead": stall / every / step_seconds,
        "load_to_first_step_seconds": measured.first_step,
        "compile_seconds": measured.compiling,
        "peak_memory_bytes": measured.peak_memory,
    }


def _spread(values: list[float]) -> dict[str, float]:
    """Returns the median, and the mean's 95% interval (normal)."""
    mean = statistics.fmean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return {
        "median": statistics.median(values),
        "low": mean - half,
        "high": mean + half,
    }


def _table(report: dict[str, Any]) -> str:
    def rate(name: str) -> str:
        spread = report[f"{name}_images_per_second"]
        batch = report["global_batch_size"]
        numbers = (spread["median"], spread["low"], spread["high"])
        columns = "".join(f"{number:>12,.0f}" for number in numbers)
        return f"{name:<8}{columns}{batch / spread['median'] * 1e3:>12.2f}"

    loop, saving = report["loop_overhead"], report["save_overhead"]
    save = report["save_seconds"]["median"]
    stall = report["save_stall_seconds"]["median"]
    megabytes = report["save_bytes"] / 1e6
    return "\n".join(
        [
            f"{report['hardware']}, {report['replicas']} replica(s), batch"
            f" {report['global_batch_size']}, {report['precision']}, width"
            f" {report['model_width']}, {report['input_size']} px",
            f"median of {report['rounds']} rounds of {report['steps_a_round']}"
            " steps, 95% interval of the mean, without the compile time",
            "",
            f"{'':<8}{'images/s':>12}{'from':>12}{'to':>12}{'ms per step':>13}",
            rate("step"),
            rate("job"),
            rate("augment"),
            rate("input"),
            rate("evaluate"),
            "",
            f"a step costs {report['step_tflop']:.3f} TFLOP and runs at"
            f" {report['model_flop_utilization']['median']:.0%} of the rate of"
            " a large matrix product"
            f" ({report['matrix_product_tflops']['median']:.2f} TFLOP/s)",
            f"the job takes {loop['median']:+.1%} over the bare step"
            f" ({loop['low']:+.1%} to {loop['high']:+.1%}), with"
            f" {report['augment_share_of_step']['median']:.1%} of augmentation",
            f"a save every {report['save_every_steps']} steps blocks it for"
            f" {stall:.2f} s, which adds {saving:.1%}"
            f" ({loop['median'] + saving:+.1%} in total)",
            f"a save writes {megabytes:.0f} MB to {report['save_to']} in"
            f" {save:.2f} s, during training",
            f"data to first step: {report['load_to_first_step_seconds']:.1f} s,"
            f" of which {report['compile_seconds']:.1f} s compile the step",
            "peak memory, including the benchmark's own: "
            + ", ".join(
                f"{size / 1e9:.2f} GB ({device})"
                for device, size in report["peak_memory_bytes"].items()
            ),
        ]
    )
