"""``udmsh reproduce``: every (method, bits, seed) cell of a plan, trained, scored and written down
once.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jsonargparse import ArgumentParser
from lightning import Callback, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger

from udmsh_pl import __version__
from udmsh_pl.baselines import ShallowHash
from udmsh_pl.baselines.cosine import cosine_map
from udmsh_pl.callbacks.encode import save_arrays
from udmsh_pl.callbacks.evaluate import EvaluateRetrieval
from udmsh_pl.cli import SHARED_WITH_DATA, ReproducePlan, UdmshCLI
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.errors import InputError
from udmsh_pl.files import write_text
from udmsh_pl.reports.environment import write_environment
from udmsh_pl.reports.run import write_report
from udmsh_pl.reports.table import Result, read_results, write_results
from udmsh_pl.retrieval import RetrievalReport, evaluate_codes, pack_codes

REFERENCE = "cosine (real-valued)"
Scored = tuple[
    RetrievalReport, dict[str, Any], float, float
]  # and the seconds of training and of encoding
KIBIBYTES_A_GB = (
    1e9 if sys.platform == "darwin" else 1e9 / 1024
)  # ru_maxrss counts bytes there, KiB elsewhere


def reproduce(
    config: Path,
    out: Path,
    bits: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> list[Result]:
    """Run a plan, resuming what is there: a cell that is finished with the same settings is not run
    again.

    Args:
        config: yaml of ``experiments/``
        out: run directory; gets ``results.csv``, ``table.md``, figures, ``config.yaml``,
            ``environment.json`` and ``cells/``
        bits: code lengths instead of the plan's
        seeds: seeds instead of the plan's
        methods: only these methods of the plan
        overrides: further arguments for Lightning's parser, such as ``--trainer.max_epochs 5``

    Raises:
        InputError: the file or a method does not exist, or a setting is wrong.
    """
    if not config.is_file():
        raise InputError(f"{config} does not exist; experiments/ holds one yaml a benchmark")
    run = Run(config, out, overrides)
    plan = run.plan(bits, seeds, methods)
    run.datamodule.prepare_data()
    run.datamodule.setup()
    write_text(out / "config.yaml", run.resolved)
    write_environment(out, run.datamodule)
    run.reference(plan.ks)
    todo = [(name, k, seed) for name in plan.methods for k in plan.bits for seed in plan.seeds]
    for number, (name, length, seed) in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {name}, {length} bits, seed {seed}", flush=True)
        run.cell(name, plan.methods[name], length, seed, plan.ks)
    wanted = {(name, length, seed) for name, length, seed in todo} | {(REFERENCE, 0, 0)}
    results = [result for result in run.results if result.cell in wanted]
    write_report(out, results, run.datamodule, plan)
    print(
        "\n"
        + (out / "table.md").read_text()
        + f"\nWritten to {out}/: results.csv, table.md, figures, config.yaml, cells/"
    )
    return results


class Run:
    """A run directory and the configuration that fills it."""

    def __init__(self, config: Path, out: Path, overrides: Sequence[str]) -> None:
        self.config, self.out, self.overrides = config, out, list(overrides)
        cli = UdmshCLI(["--config", str(config), *overrides], run=False)
        self.base = cli.config
        self.resolved = cli.parser.dump(cli.config, skip_link_targets=False)
        self.datamodule: RetrievalDataModule = cli.datamodule
        path = out / "results.csv"
        self.results = read_results(path) if path.is_file() else []

    def plan(
        self, bits: Sequence[int] | None, seeds: Sequence[int] | None, methods: Sequence[str] | None
    ) -> ReproducePlan:
        """The configuration's plan, narrowed by the command line."""
        plan = ReproducePlan(**self.base.reproduce.as_dict())
        unknown = [name for name in methods or () if name not in plan.methods]
        if unknown:
            raise InputError(
                f"{self.config} has no method {unknown[0]!r}; it has {', '.join(plan.methods)}"
            )
        return replace(
            plan,
            bits=list(bits or plan.bits),
            seeds=list(seeds if seeds is not None else plan.seeds),
            methods={name: plan.methods[name] for name in methods or plan.methods},
        )

    def reference(self, ks: Sequence[int | None]) -> None:
        """Score the cosine ranking of the features themselves, once."""
        cell = (REFERENCE, 0, 0)
        if self._finished(cell, {"ks": list(ks)}):
            return
        splits = self._labelled()
        query, database = (self._features(name) for name in ("query", "database"))
        values = cosine_map(query, database, splits["query"].labels, splits["database"].labels, ks)
        rows = [
            self._row(cell, k, "none", value, value, value, 0.0, 0.0) for k, value in values.items()
        ]
        self._keep(cell, {"ks": list(ks)}, rows)

    def cell(
        self, name: str, spec: dict[str, Any] | None, bits: int, seed: int, ks: Sequence[int | None]
    ) -> None:
        """Train, encode and score one cell unless it is finished."""
        base = {
            name: part
            for name, part in yaml.safe_load(self.resolved).items()
            if name != "reproduce"
        }
        settings = {"method": spec, "base": base, "bits": bits, "seed": seed, "ks": list(ks)}
        cell = (name, bits, seed)
        if self._finished(cell, settings):
            return
        seed_everything(seed, workers=True, verbose=False)
        spec = spec or self.base.model.as_dict()
        shallow = self._shallow(name, spec, bits, seed)
        if shallow is not None:
            report, codes, *seconds = self._run_shallow(shallow, ks)
        else:
            report, codes, *seconds = self._run_learned(name, spec, bits, seed, ks)
        labels = {
            f"{split}_labels": images.labels
            for split, images in self._labelled().items()
            if split != "train"
        }
        save_arrays(
            self._directory(cell) / "codes.npz", {"bits": np.int64(bits), **codes, **labels}
        )
        rows = []
        for k in ks:
            low, high = report.map_worst[k], report.map_best[k]
            rows.append(self._row(cell, k, "expected", report.map[k], low, high, *seconds))
            rows.append(self._row(cell, k, "id", report.map_id[k], low, high, *seconds))
        self._keep(cell, settings, rows)

    def _run_shallow(self, method: ShallowHash, ks: Sequence[int | None]) -> Scored:
        start = time.perf_counter()
        method.fit(self._features("train"))
        fitted = time.perf_counter()
        codes = {
            f"{name}_codes": pack_codes(method.project(self._features(name)))
            for name in ("query", "database")
        }
        encoded = time.perf_counter()
        splits = self._labelled()
        report = evaluate_codes(
            codes["query_codes"],
            codes["database_codes"],
            splits["query"].labels,
            splits["database"].labels,
            method.bits,
            ks=ks,
        )
        return report, codes, fitted - start, encoded - fitted

    def _run_learned(
        self, name: str, spec: dict[str, Any], bits: int, seed: int, ks: Sequence[int | None]
    ) -> Scored:
        model = self.base.model.as_dict()
        shared = {key: model["init_args"][key] for key in ("backbone", "weights", "grid")}
        init_args = {**shared, **(spec.get("init_args") or {}), "bits": bits}
        given = {"class_path": spec["class_path"], "init_args": init_args}
        arguments = ["--config", str(self.config), *self.overrides, "--model", json.dumps(given)]
        cli = UdmshCLI([*arguments, "--seed_everything", str(seed)], run=False)
        datamodule = (
            self.datamodule
        )  # open already, with what other cells have fitted to its features
        if any(getattr(datamodule, key) != getattr(cli.model, key) for key in SHARED_WITH_DATA):
            datamodule = cli.datamodule
        directory = self._directory((name, bits, seed))
        write_text(directory / "config.yaml", cli.parser.dump(cli.config))
        asked = cli.config_init.trainer.callbacks or []
        trainer = cli.instantiate_trainer(
            # only what the user asks for: Lightning would keep the last step too, beside last.ckpt
            enable_checkpointing=any(
                isinstance(one, Checkpoint)
                for one in (asked if isinstance(asked, list) else [asked])
            ),
            default_root_dir=str(directory),
            logger=CSVLogger(str(directory), name="", version="logs"),
        )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        evaluation = next(
            one for one in callbacks if isinstance(one, EvaluateRetrieval)
        )  # among the command line's defaults
        evaluation.ks = tuple(ks)
        start = time.perf_counter()
        trainer.fit(cli.model, datamodule=datamodule)
        seconds = time.perf_counter() - start
        trainer.save_checkpoint(
            directory / "last.ckpt", weights_only=True
        )  # a finished cell is not trained further
        trainer.test(cli.model, datamodule=datamodule, verbose=False)
        if evaluation.report is None:  # another rank of a distributed run: the first one reports
            raise SystemExit(0)
        codes = {f"{split}_codes": part for split, part in evaluation.codes.items()}
        return evaluation.report, codes, seconds, evaluation.encode_seconds

    def _shallow(self, name: str, spec: dict[str, Any], bits: int, seed: int) -> ShallowHash | None:
        """The shallow method that ``spec`` names, or None when it is a learned one."""
        module, _, attribute = str(spec.get("class_path", "")).rpartition(".")
        try:
            kind = getattr(__import__(module, fromlist=[attribute]), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"{self.config}: method {name!r}: class_path {spec.get('class_path')!r}: {error}"
            ) from error
        if not issubclass(kind, ShallowHash):
            return None
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(kind, "method")
        init_args = {**(spec.get("init_args") or {}), "bits": bits, "seed": seed}
        method: ShallowHash = parser.instantiate_classes(
            parser.parse_object({"method": init_args})
        ).method
        return method

    def _features(self, split: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.asarray(self.datamodule.features(split)["global_feature"], dtype=np.float32)

    def _labelled(self) -> dict[str, Any]:
        splits = self.datamodule.splits.by_name()
        if "query" not in splits or not splits["query"].labels.shape[1]:
            raise InputError(
                f"{self.config} has no labelled queries to score; `udmsh fit` and `predict` need "
                "none"
            )
        return splits

    def _directory(self, cell: tuple[str, int, int]) -> Path:
        return self.out / "cells" / "-".join(str(part) for part in cell)

    def _finished(self, cell: tuple[str, int, int], settings: dict[str, Any]) -> bool:
        path = self._directory(cell) / "done.json"
        known = any(result.cell == cell for result in self.results)
        return known and path.is_file() and json.loads(path.read_text()) == self._stamp(settings)

    def _stamp(self, settings: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(settings, sort_keys=True, default=str)
        return {
            "settings": text,
            "split": self.datamodule.splits.fingerprint(),
            "version": __version__,
        }

    def _keep(
        self, cell: tuple[str, int, int], settings: dict[str, Any], rows: list[Result]
    ) -> None:
        """Results first, the mark that says finished last: a kill between the two only repeats the
        cell.
        """
        self.results = [result for result in self.results if result.cell != cell] + rows
        write_results(self.out / "results.csv", self.results)
        write_text(self._directory(cell) / "done.json", json.dumps(self._stamp(settings)))

    def _row(
        self,
        cell: tuple[str, int, int],
        k: int | None,
        ties: str,
        value: float,
        lower: float,
        upper: float,
        seconds: float,
        encode_seconds: float,
    ) -> Result:
        protocol = self.datamodule.splits.protocol
        tuned = "fine-tuned" if self.datamodule.finetune else "frozen"
        return Result(
            dataset=protocol.dataset,
            protocol=protocol.name,
            split_sha256=self.datamodule.splits.fingerprint(),
            method=cell[0],
            backbone=f"{self.datamodule.backbone} {tuned}",
            bits=cell[1],
            seed=cell[2],
            metric="map",
            k="all" if k is None else str(k),
            ties=ties,
            denominator="retrieved",
            value=round(value, 6),
            lower=round(lower, 6),
            upper=round(upper, 6),
            seconds=round(seconds, 2),
            encode_seconds=round(encode_seconds, 3),
            peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES_A_GB, 3),
            version=__version__,
        )
