"""``udmsh reproduce``: a plan in one process, shared by workers, or trained by ranks together."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import write_text
from udmsh_pl.reports.results import Cell
from udmsh_pl.runs.plan import Plan
from udmsh_pl.reports.run_report import PICTURES, write_report
from udmsh_pl.reports.table import render_tables
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.runs import on_ray, parallel, ranks
from udmsh_pl.runs.experiment import Experiment
from udmsh_pl.runs.loggers import log_report
from udmsh_pl.runs.plan_run import REFERENCE, PlanRun
from udmsh_pl.runs.progress import Progress, log_to

TRIES = 2  # of a cell, when workers die of it


@dataclass(frozen=True)
class Reproduction:
    """What the command line asks for.

    Args:
        experiment: the configuration
        plan: its plan, perhaps narrowed
        out: run directory; gets ``results.csv``, ``table.md``, figures, ``config.yaml``,
            ``environment.json`` and ``cells/``
        arguments: the command line, to start other processes with
        jobs: workers that share the cells
        ray: address of a Ray cluster that runs the cells instead
        verbose: show what Lightning says
    """

    experiment: Experiment
    plan: Plan
    out: Path
    arguments: Sequence[str]
    jobs: int = 1
    ray: str | None = None
    verbose: bool = False

    def run(self) -> int:
        """Run what is not finished, report, and give the exit status: 1 where a cell is missing."""
        if parallel.RANKS in os.environ:
            ranks.join()
        elif (together := self.experiment.ranks()) > 1 and not parallel.is_launched():
            return parallel.run_ranks(self.arguments, together)
        launched, rank = parallel.is_launched(), parallel.launched_rank()
        launch = parallel.launch_id()
        if launched:
            parallel.forget_launcher()
        if not self.verbose:
            log_to(self.out / "log.txt")
        run = PlanRun(self.experiment, self.plan, RunDirectory(self.out), self.verbose)
        if self.ray is not None:
            self._on_ray(run, self.ray)
            return self._report(run)
        run.prepare()
        if self.jobs > 1 and launch is None:
            self._watch(run)
        else:
            self._drain(run, launch)
        silent = parallel.WORKER in os.environ or (launched and rank > 0) or not ranks.is_first()
        return 0 if silent else self._report(run)

    def _drain(self, run: PlanRun, launch: str | None) -> None:
        """Run cells until none is left, also those that another worker leaves behind."""
        progress, left = Progress(self.plan.cells()), self.plan.cells()
        while left:
            elsewhere = []
            for cell in left:
                if launch is not None and tries(run.directory, cell, launch) >= TRIES:
                    continue
                progress.starts(cell)
                state = run.run(cell, launch)
                if state == "runs elsewhere":
                    elsewhere.append(cell)
                elif ranks.is_first():
                    progress.ends(cell, state, run.directory.rows(cell))
            if len(elsewhere) == len(left):
                time.sleep(0.5)
            left = elsewhere
        progress.close()

    def _watch(self, run: PlanRun) -> None:
        """Start workers and tell what they finish, until all is finished or given up."""
        before = {cell: run.directory.finished_at(cell) for cell in self.plan.cells()}
        progress, waiting = self._begin(run)
        for _ in range(TRIES):  # all workers may die, and with them whoever would take over
            if not waiting:
                break
            logs = run.directory.path / "workers"
            processes = parallel.workers(self.arguments, min(self.jobs, len(waiting)), logs)
            try:
                while waiting:
                    ended = all(process.poll() is not None for process in processes)
                    for cell in list(waiting):
                        if run.directory.finished_at(cell) != before[cell]:
                            progress.ends(cell, "ran", run.directory.rows(cell))
                            waiting.remove(cell)
                    if ended:
                        break
                    time.sleep(0.3)
                for process in processes:
                    process.wait()
            finally:
                parallel.stop(processes)
            if any(process.returncode == 2 for process in processes):
                raise InputError(_last_line(logs))
        progress.close()

    def _on_ray(self, run: PlanRun, address: str) -> None:
        """Let a cluster extract and run cells, and tell what it finishes."""
        data = self.experiment.datamodule()
        data.download()
        with on_ray.cluster(address, self.experiment, [self.out, data.cache_dir]) as place:
            on_ray.extract(place, data)
            run.prepare()
            progress, waiting = self._begin(run)
            for cell, why in on_ray.run_cells(place, self.out, waiting):
                if why is None:
                    progress.ends(cell, "ran", run.directory.rows(cell))
                else:
                    write_text(self.out / "workers" / f"{cell.name}.log", why)
            progress.close()

    def _begin(self, run: PlanRun) -> tuple[Progress, list[Cell]]:
        """Tell what is finished; gives the cells that are not."""
        progress, waiting = Progress(self.plan.cells()), []
        for cell in self.plan.cells():
            if run.finished(cell):
                progress.ends(cell, "was finished", run.directory.rows(cell))
            else:
                waiting.append(cell)
        return progress, waiting

    def _report(self, run: PlanRun) -> int:
        cells = self.plan.cells()
        missing = [cell for cell in cells if not run.directory.rows(cell)]
        wanted = {*cells, *self.plan.quantiser_cells(), REFERENCE}
        results = [result for result in run.directory.results() if result.cell in wanted]
        table = write_report(run.directory, results, run.data.splits, self.plan, missing)
        pictures = [path for name in PICTURES if (path := self.out / name).is_file()]
        log_report(self.experiment.trainer_config.logger, run.directory, table, pictures)
        files = (
            "report.html, results.csv, table.md (also leads and costs), figures, log.txt, cells/"
        )
        print(f"\n{render_tables(results)}\n\nWritten to {self.out}/: {files}")
        for cell in missing:
            where = (
                f"see {self.out}/workers/"
                if self.jobs > 1 or self.ray
                else "run the same command again"
            )
            print(f"missing: {cell.name}; {where}", file=sys.stderr)
        return 1 if missing else 0


def tries(directory: RunDirectory, cell: Cell, launch: str) -> int:
    """How often workers of this launch began the cell."""
    try:
        return (directory.folder(cell) / "tries").read_text(encoding="utf-8").split().count(launch)
    except (OSError, UnicodeDecodeError):
        return 0


def _last_line(logs: Path) -> str:
    lines = [
        line
        for path in sorted(logs.glob("worker-*.log"))
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith("udmsh: error: ")
    ]
    return lines[-1].removeprefix("udmsh: error: ") if lines else f"a worker failed; see {logs}"
