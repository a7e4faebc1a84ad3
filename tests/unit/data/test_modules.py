"""Every data module as LightningCLI sees it: arguments, defaults, mistyped keys."""

import inspect
import re
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

import udmsh_pl.data
from udmsh_pl.data.base import RetrievalDataModule

BLOCKS = {
    "FashionSample": {},
    "FashionMNIST": {"root": "datasets"},
    "CIFAR10": {"root": "datasets", "protocol": "1k-59k", "split_seed": 1},
    "NUSWIDE": {
        "root": "datasets/nuswide",
        "images": "pictures",
        "lists": None,
        "allow_missing": True,
    },
    "MIRFlickr": {"root": "datasets/mirflickr25k", "protocol": "38-annotations", "lists": "lists"},
    "COCO": {"root": "datasets/coco", "protocol": "2017", "queries": 100, "train": None},
    "ImageFolders": {"root": "pictures", "manifest": "m.csv", "query_share": 0.2},
    "ListFiles": {
        "root": ".",
        "database": "d.txt",
        "query": "q.txt",
        "map_at": None,
        "missing": {"train": 3},
    },
}


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RetrievalDataModule, "data")
    return parser


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # jsonargparse 4.49 renames instantiate_classes
@pytest.mark.parametrize("name", BLOCKS)
def test_each_module_is_built_from_a_yaml_block(name: str) -> None:
    block = {"class_path": f"udmsh_pl.data.{name}", "init_args": BLOCKS[name]}
    config = parser().parse_object({"data": block})
    module = parser().instantiate_classes(config).data
    assert type(module) is getattr(udmsh_pl.data, name)
    for argument, value in BLOCKS[name].items():
        given = getattr(module, argument)
        assert (str(given) if isinstance(given, Path) else given) == value


@pytest.mark.parametrize("name", BLOCKS)
def test_each_argument_is_explained_in_the_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = getattr(udmsh_pl.data, name)
    with pytest.raises(SystemExit):
        parser().parse_args([f"--data.help=udmsh_pl.data.{name}"])
    shown = " ".join(capsys.readouterr().out.split())
    for argument in inspect.signature(module).parameters:
        # The explanation stands between the argument's name and its type.
        assert re.search(rf"--data\.{argument} (?:\S+ ){{4,}}?.*?\(type:", shown), argument
        assert not re.search(rf"--data\.{argument} \S+ \((?:required, )?type:", shown), argument


def test_a_mistyped_key_is_named() -> None:
    block = {"class_path": "udmsh_pl.data.NUSWIDE", "init_args": {"rooot": "x"}}
    with pytest.raises(Exception, match="rooot"):
        parser().parse_object({"data": block})


def test_every_exported_module_is_covered_here() -> None:
    assert sorted(BLOCKS) == sorted(udmsh_pl.data.__all__)
