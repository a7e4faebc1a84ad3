"""``udmsh reproduce``: a plan from its first cell to its report, here, by workers, ranks or Ray."""

import hashlib
import os
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from udmsh_pl import __version__
from udmsh_pl.errors import InputError
from udmsh_pl.reports.run_directory import RunDirectory
from udmsh_pl.reports.run_report import PICTURES, write_report
from udmsh_pl.reports.table import render_tables
from udmsh_pl.reports.table_rows import Cell, Result
from udmsh_pl.runs import on_ray, workers
from udmsh_pl.runs.cells import REFERENCE, Runner
from udmsh_pl.runs.loggers import log_report, log_to
from udmsh_pl.safe.files import write_text
from udmsh_pl.safe.profile import clock, write_profile

TRIES = 2  # of a cell, when workers die of it
SHOWN = 2  # measures in a line, the last ones of a plan; the table has all


def reproduce(run: Runner, arguments: Sequence[str], jobs: int = 1, ray: str | None = None) -> int:
    """Run what is not finished, report, and give the exit status: 1 where a cell is missing.

    ``arguments`` start other processes: ``jobs`` workers that share the cells, or ranks. ``ray`` is
    the address of a cluster that runs the cells instead.
    """
    launch, worker = workers.launch_id(), workers.WORKER in os.environ
    launched = launch is not None and not worker  # by torchrun or srun
    if workers.RANKS in os.environ:
        workers.join_ranks()
    elif (together := run.configuration.ranks()) > 1 and not launched:
        return workers.run_ranks(arguments, together)
    rank = workers.forget_launcher() if launched else 0
    if not run.verbose:
        log_to(run.directory.path / "log.txt")
    if ray is not None:
        _run_on_ray(run, ray)
    elif jobs > 1 and launch is None:
        run.prepare()
        _run_by_workers(run, arguments, jobs)
    else:
        run.prepare()
        _run_here(run, launch)
    if worker or rank > 0 or not workers.is_first():
        return 0
    return _report(run, shared=jobs > 1 or ray is not None)


def _run_here(run: Runner, launch: str | None) -> None:
    """Run cells until none is left, also those that another worker leaves behind."""
    progress, left = Progress(run.plan.cells()), run.plan.cells()
    while left:
        elsewhere = []
        for cell in left:
            if launch is not None and _tries(run.directory, cell, launch) >= TRIES:
                continue
            progress.starts(cell)
            state = run.run(cell, launch)
            if state == "runs elsewhere":
                elsewhere.append(cell)
            elif workers.is_first():
                progress.ends(cell, state, run.directory.rows(cell))
        if len(elsewhere) == len(left):
            time.sleep(0.5)
        left = elsewhere
    progress.close()


def _run_by_workers(run: Runner, arguments: Sequence[str], jobs: int) -> None:
    """Start workers and show what they finish, until all is finished or given up."""
    progress, waiting = _begin(run)
    before = {cell: run.directory.finished_at(cell) for cell in waiting}
    for _ in range(TRIES):  # all workers may die, and with them whoever would take over
        if not waiting:
            break
        logs = run.directory.path / "workers"
        processes = workers.start(arguments, min(jobs, len(waiting)), logs)
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
            workers.stop(processes)
        if any(process.returncode == 2 for process in processes):
            raise InputError(_last_line(logs))
    progress.close()


def _run_on_ray(run: Runner, address: str) -> None:
    """Let a cluster extract and run cells, and show what it finishes."""
    data, out = run.configuration.datamodule(), run.directory.path
    data.download()
    with on_ray.cluster(address, run.configuration, [out, data.cache_dir]) as place:
        on_ray.extract(place, data)
        run.prepare()
        progress, waiting = _begin(run)
        for cell, why in on_ray.run_cells(place, out, waiting):
            if why is None:
                progress.ends(cell, "ran", run.directory.rows(cell))
            else:
                write_text(out / "workers" / f"{cell.name}.log", why)
        progress.close()


def _begin(run: Runner) -> tuple["Progress", list[Cell]]:
    """Show what is finished; gives the cells that are not."""
    progress, waiting = Progress(run.plan.cells()), []
    for cell in run.plan.cells():
        if run.finished(cell):
            progress.ends(cell, "was finished", run.directory.rows(cell))
        else:
            waiting.append(cell)
    return progress, waiting


@clock("report")
def _report(run: Runner, shared: bool) -> int:
    """Write ``results.csv``, tables and figures; gives the exit status: 1 where a cell is missing.

    ``results.csv`` holds finished cells of earlier commands too, the report this plan's alone.
    """
    out, plan = run.directory.path, run.plan
    run.score_rankings()
    if run.profile:
        write_profile(out)
    wanted = [REFERENCE, *plan.quantiser_cells(), *plan.cells(), *plan.ranking_cells()]
    written = run.directory.write_results(wanted)
    there = {result.cell for result in written}
    missing = [cell for cell in plan.cells() if cell not in there]
    results = [result for result in written if result.cell in wanted]
    table = _report_text(run, results, missing)
    pictures = [path for name in PICTURES if (path := out / name).is_file()]
    log_report(run.configuration.config.trainer.logger, run.directory, table, pictures)
    files = "report.html, results.csv, table.md (also leads and costs), figures, log.txt, cells/"
    print(f"\n{render_tables(results)}\n\nWritten to {out}/: {files}")
    mend = f"see {out}/workers/" if shared else "run the same command again"
    for cell in missing:
        print(f"missing: {cell.name}; {mend}", file=sys.stderr)
    return 1 if missing else 0


def _report_text(run: Runner, results: Sequence[Result], missing: Sequence[Cell]) -> str:
    """Text of ``table.md``; tables and figures are made anew only if what they show changed."""
    out, plan = run.directory.path, run.plan
    grid = list(plan.methods), plan.bits, plan.seeds, plan.ks
    shown = repr((__version__, grid, results, missing, run.configuration.resolved, run.profile))
    digest, note = hashlib.sha256(shown.encode()).hexdigest(), out / ".reported"
    try:
        known, *names = note.read_text(encoding="utf-8").splitlines()
        if known == digest and not run.profile and all((out / name).is_file() for name in names):
            return (out / "table.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass  # no report yet, or a damaged note
    text = write_report(run.directory, results, run.data.splits, plan, missing)
    names = [name for name in ("table.md", "report.html", *PICTURES) if (out / name).is_file()]
    write_text(note, "\n".join([digest, *names]))
    return text


def _tries(directory: RunDirectory, cell: Cell, launch: str) -> int:
    """How often workers of this launch began the cell."""
    try:
        return (directory.folder(cell) / "tries").read_text(encoding="utf-8").split().count(launch)
    except (OSError, UnicodeDecodeError):
        return 0


def _last_line(logs: Path) -> str:
    texts = [path.read_text(errors="replace") for path in sorted(logs.glob("worker-*.log"))]
    found = re.findall(r"^udmsh: error: (.*)", "\n".join(texts), re.MULTILINE)
    return str(found[-1]) if found else f"a worker failed; see {logs}"


class Progress:
    """Lines and a bar over all cells: a line for all seeds, so that a plan stays on a screen."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list(cells)
        self._ended: dict[Cell, tuple[str, list[Result]]] = {}
        shown = {"disable": not sys.stderr.isatty(), "dynamic_ncols": True}
        self._bar: Any = tqdm(total=len(cells), unit="cell", **shown)

    def starts(self, cell: Cell) -> None:
        """Name the cell beside the bar."""
        self._bar.set_description(cell.name)

    def ends(self, cell: Cell, state: str, rows: Sequence[Result]) -> None:
        """Note a cell's scores; the last seed of a method and code length prints them all."""
        self._bar.update()
        together = [one for one in self.cells if (one.method, one.bits) == (cell.method, cell.bits)]
        self._ended[cell] = state, [row for row in rows if row.ties == "expected"]
        if not all(one in self._ended for one in together):
            return
        ended = [self._ended[one] for one in together]
        values: dict[str, list[float]] = defaultdict(list)
        for row in (row for _, scores in ended for row in scores):
            name = "mAP" if row.metric == "map" else row.metric
            values[f"{name}@{row.k.upper()}"].append(row.value)
        last = list(values.items())[-SHOWN:]
        shown = ", ".join(f"{name} {_spread(found)}" for name, found in last)
        spent = [scores[0].seconds for state, scores in ended if state == "ran" and scores]
        each = " a seed" if len(spent) > 1 else ""
        seconds = f" ({statistics.fmean(spent):.1f} s{each})" if spent else f" ({state})"
        seeds = " ".join(str(one.seed) for one in together)
        name = f"{cell.method}, {cell.bits} bits, seed{'s' if len(together) > 1 else ''} {seeds}"
        line = f"[{len(self._ended)}/{len(self.cells)}] {name}: {shown}{seconds}"
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"
