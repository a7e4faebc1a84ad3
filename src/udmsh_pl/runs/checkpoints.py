"""Checkpoints that are whole or absent on any disk, and the newest one of a run."""

import difflib
import importlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import atomic_path
from udmsh_pl.safe.untrusted import check_archive


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the target, not to the system's temporary folder, perhaps another disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; a kill or a full disk leaves what was there."""
        buffer = io.BytesIO()  # torch's writer would turn a full disk into an error without a cause
        torch.save(checkpoint, buffer)
        with atomic_path(Path(path)) as partial, partial.open("wb") as stream:
            stream.write(buffer.getbuffer())


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """The checkpoint written last, of all versions of the run that the trainer's logger names."""
    logger = trainer.logger
    root = Path((logger.save_dir if logger else None) or trainer.default_root_dir)
    base, below = (root / str(logger.name), "*/checkpoints") if logger else (root, "checkpoints")
    folders = list(base.glob(below))
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            folders.append(Path(callback.dirpath))
    found = [path for folder in folders for path in folder.glob("[!.]*.ckpt")]
    return max(found, key=_progress, default=None)


def _progress(path: Path) -> tuple[int, int]:
    """Steps that a checkpoint has seen, by its name or else its content; a clock may be wrong."""
    steps = re.search(r"step=(\d+)", path.name)
    try:
        known = steps[1] if steps else torch.load(path, "cpu", weights_only=True)["global_step"]
    except Exception:  # a file that cannot be read is no candidate
        known = -1
    return int(known), path.stat().st_mtime_ns


def check_checkpoint(path: Path, options: Sequence[str], model: str) -> None:
    """Refuse a checkpoint that is damaged, of a foreign class (neither ours nor ``model``, the
    configuration's), or was trained with other ``--model.*`` than the command line's options.
    """
    settings = settings_of(path)
    kind = str(settings.get("_class_path", model))
    if kind != model:
        _ours(path, kind)
    for number, option in enumerate(options):
        name, _, value = option.partition("=")
        key = name.removeprefix("--model.").removeprefix("init_args.")
        value = value or " ".join(options[number + 1 : number + 2])
        if name == "--model" and value.rpartition(".")[2] != kind.rpartition(".")[2]:
            raise InputError(f"--model {value}, but {path} is of {kind}; leave the option out")
        given = name.startswith("--model.") and key in settings
        if given and str(yaml.safe_load(value)) != str(settings[key]):
            raise InputError(
                f"{name} {value}, but {path} was trained with {settings[key]}; leave the option out"
            )


def class_of(path: Path) -> str | None:
    """Class path of a checkpoint's model, if it says so; refuses foreign ones and damage."""
    kind = settings_of(path).get("_class_path")
    return None if kind is None else _ours(path, str(kind))


def _ours(path: Path, kind: str) -> str:
    if not kind.startswith("udmsh_pl."):
        raise InputError(
            f"--ckpt_path {path} names the class {kind}, which is not ours: a file may not choose "
            f"what is imported; give --model {kind} if it is yours"
        )
    return kind


def settings_of(path: Path) -> dict[str, Any]:
    """What a checkpoint was trained with; nothing in it is run."""
    if not path.is_file():
        raise InputError(f"--ckpt_path {path} does not exist; give the .ckpt file of a run")
    check_archive(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        settings = dict(loaded["hyper_parameters"])
    except Exception as error:  # each damage has its own
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"--ckpt_path {path}: no checkpoint of udmsh ({what})") from error
    settings.pop("_instantiator", None)  # Lightning's
    return settings


def check_fits(path: Path, model: LightningModule) -> None:
    """Refuse a run's newest checkpoint that is damaged, of another class, or of other options."""
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    check_checkpoint(path, [], kind)
    found = settings_of(path)
    trained = {"class": found.pop("_class_path", kind), **found}
    now = {"class": kind, **model.hparams}
    for name, value in trained.items():
        if name in now and str(now[name]) != str(value):
            raise InputError(
                f"--ckpt_path last is {path}, whose {name} is {value}, not {now[name]}; give "
                "--ckpt_path that file, which brings its settings along"
            )


def import_class(path: str, where: str) -> Any:
    """The class that a dotted path names, in the current folder too; an InputError without one."""
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise InputError(f"{where}: class_path {path!r}: {error}") from error
    kind = getattr(module, name, None)
    if not isinstance(kind, type):
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {module_name}.{near[0]}?" if near else ""
        raise InputError(f"{where}: {module_name} has no class {name!r}{hint}")
    return kind
