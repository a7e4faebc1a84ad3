"""Constructors of models and data modules: one list of options, seen by help, type checker and
checkpoints; none set beside them.
"""

import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from jsonargparse import ArgumentParser
from typing_extensions import Unpack

import udmsh_pl.baselines
import udmsh_pl.models
from udmsh_pl.baselines.matching import CosineMatching, MatchingOptions
from udmsh_pl.data import NUSWIDE, ListFiles
from udmsh_pl.data.base import RetrievalDataModule
from udmsh_pl.data.options import DataOptions
from udmsh_pl.errors import InputError
from udmsh_pl.models import UDMSH, HashingModule, UDMSHPlus
from udmsh_pl.models.options import ModelOptions
from udmsh_pl.models.renamed import RENAMED, WITHOUT_EFFECT
from udmsh_pl.safe.constructors import check_range, options_of, takes

TINY: dict[str, Any] = {"backbone": "resnet10t", "weights": "random", "hidden": 8}
EXPORTED = [*vars(udmsh_pl.models).values(), *vars(udmsh_pl.baselines).values()]
METHODS = sorted(
    {
        one
        for one in EXPORTED
        if isinstance(one, type) and issubclass(one, HashingModule) and one is not HashingModule
    },
    key=lambda method: method.__name__,
)


@pytest.mark.parametrize(
    ("group", "owner"),
    [
        (ModelOptions, HashingModule),
        (DataOptions, RetrievalDataModule),
        (MatchingOptions, CosineMatching),
    ],
)
def test_a_group_of_options_is_the_constructors(group: type, owner: type) -> None:
    declared = get_type_hints(group)
    if owner is CosineMatching:
        assert set(declared) == options_of(owner, HashingModule)
        return
    parameters = dict(inspect.signature(owner).parameters)
    assert {name: one.annotation for name, one in parameters.items()} == declared


@pytest.mark.parametrize("method", METHODS)
def test_help_shows_type_default_and_sentence_of_each_option(
    method: type[HashingModule], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(HashingModule, "model")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--model.help={method.__module__}.{method.__name__}"])
    shown = " ".join(capsys.readouterr().out.split())
    options = options_of(method, HashingModule)
    assert {"bits", "branches", "learning_rate"} <= options
    for name in options:
        part = re.search(rf".*--model\.{name} \S+ (.*?)\(type: .*?, default: ", shown)
        assert part is not None, name
        assert len(part[1].split()) >= 1, name
        assert "--model" not in part[1], name


def test_an_attribute_that_the_constructor_would_overwrite_is_refused() -> None:
    with pytest.raises(InputError, match=r"Mine: the class attribute 'branches'.*constructor"):

        class Mine(UDMSH):
            branches = "global"  # type: ignore[assignment]

    with pytest.raises(InputError, match="'levels'"):

        class Own(UDMSH):
            levels = "hard"

    with pytest.raises(InputError, match="'protocol'"):

        class Other(NUSWIDE):
            protocol = "81-concepts"


class Gamma(UDMSH):
    """A method from outside.

    Args:
        gamma: own
        levels: with another default
    """

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        levels: Any = "hard",
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(levels=levels, **options)
        self.gamma = gamma


def test_own_options_and_defaults_of_a_subclass() -> None:
    model = Gamma(gamma=2.0, bits=12, **TINY)
    assert (model.gamma, model.bits, model.structure.levels) == (2.0, 12, "hard")
    assert dict(model.hparams)["gamma"] == 2.0
    assert Gamma(levels="cosine", **TINY).structure.levels == "cosine"
    with pytest.raises(TypeError, match="gama"):
        Gamma(gama=1.0, **TINY)


@pytest.mark.parametrize("method", METHODS)
def test_hyperparameters_are_all_options(method: type[HashingModule]) -> None:
    model = method(bits=12, **TINY)
    assert set(model.hparams) == options_of(method, HashingModule) - {*RENAMED, *WITHOUT_EFFECT}
    assert model.hparams["bits"] == 12
    again = method(**model.hparams)
    assert again.hparams == model.hparams


def test_the_encoder_of_udmsh_plus_gets_its_own_options() -> None:
    model = UDMSHPlus(dims=16, dropout=0.1, **TINY)
    assert model.encoder.fusion.dims == 16
    assert model.encoder.head[3].p == 0.1


def test_mistyped_options_of_data_are_named() -> None:
    with pytest.raises(TypeError, match="batchsize"):
        ListFiles(root=Path(), database=Path("x"), batchsize=3)  # type: ignore[call-arg]


def test_what_a_constructor_takes() -> None:
    class Alone(HashingModule):
        def __init__(self, *, bits: int = 8) -> None:
            super().__init__(bits=bits)

        def objective(self, batch: Any) -> Any:
            return {}

    found = [takes(Gamma, name) for name in ("grid", "gamma", "gama")]
    assert found == [True, True, False]
    assert [takes(Alone, name) for name in ("bits", "grid")] == [True, False]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), None])
def test_a_number_outside_its_range_is_one_line(value: Any) -> None:
    with pytest.raises(
        InputError, match=r"near_share is .*; give --model.near_share a number from 0 to 1"
    ):
        check_range("near_share", value, most=1)
    for allowed in (0, 0.5, 1):
        check_range("near_share", allowed, most=1)
    for allowed in (None, 0, 1e9):
        check_range("least_weight", allowed)
    with pytest.raises(InputError, match="at least 0, or null"):
        check_range("least_weight", -1)
