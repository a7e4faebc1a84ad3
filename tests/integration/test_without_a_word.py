"""What once was wrong without a word, seen from outside; where else each line is held:

- random weights for codes: here; options that contradict a checkpoint: here, ``test_baselines``
- orientation of pictures: ``images/test_decode``, in the cache's key: ``features/test_extract``;
  HEIC and video files: ``data/test_folder``, ``test_bad_input``
- images that a protocol lacks: here
- albums and labels: ``data/test_folder``, ``images/test_manifest``
- a broken picture: ``test_bad_input``, ``images/test_broken``, ``images/test_check``
- codes of other images and W&B's files: ``test_first_steps``
- one picture more: ``features/test_reuse``
- colours of methods: ``reports/test_curves``
"""

from pathlib import Path

import pytest

from udmsh_pl.reports.table_rows import read_results

from .conftest import Run


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("validate", ()),
        ("test", ("--ckpt_path", "last")),
        ("predict", ()),
        ("predict", ("--ckpt_path", "last")),
    ],
)
def test_random_weights_are_refused(
    colours: Path,
    udmsh: Run,
    capsys: pytest.CaptureFixture[str],
    command: str,
    asked: tuple[str, ...],
) -> None:
    assert udmsh(command, "--config", colours / "config.yaml", *asked) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no checkpoint to load" in line
    assert "--untrained true" in line
    assert not Path("codes.npz").exists()


def test_weights_are_kept_where_validation_was_asked_for_and_never_ran(
    colours: Path, udmsh: Run
) -> None:
    """No labels, or fewer epochs than lie between two validations: nothing was saved, status 0."""
    config = ("--config", colours / "config.yaml", "--trainer.max_epochs", 1)
    now_and_then = ("--trainer.check_val_every_n_epoch", 5, "--trainer.default_root_dir", "run")
    assert udmsh("fit", *config, *now_and_then) == 0
    assert len(list(Path("run").rglob("*.ckpt"))) == 1


def test_an_option_that_contradicts_the_checkpoint_is_refused(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("--config", colours / "config.yaml", "--trainer.max_epochs", 1)
    assert udmsh("fit", *config, "--trainer.default_root_dir", "run") == 0
    [checkpoint] = Path("run").rglob("*.ckpt")
    for option in (("--model.bits", 32), ("--model.bits=32",), ("--model.init_args.bits", 32)):
        assert udmsh("predict", *config, *option, "--ckpt_path", checkpoint) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "32, but" in line
        assert "was trained with 12" in line


def test_images_that_a_protocol_lacks_are_told_in_log_table_and_csv(
    colours: Path, udmsh: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number in (*range(5), *range(20, 40)):
        (few / f"database{number}.png").symlink_to(colours / f"database{number}.png")
    for number in range(12):
        (few / f"query{number}.png").symlink_to(colours / f"query{number}.png")
    plan = ("reproduce", colours / "config.yaml", "--bits", 8, "--seeds", 0, "--methods", "lsh")
    plan = (*plan, "--out", "run", "--data.root", few, "--data.cache_dir", "cache")
    assert udmsh(*plan) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of 13 query images" in error
    assert "36 of 61 database images are missing" in error
    assert udmsh(*plan, "--data.allow_missing", "true") == 0
    name = "lists less 1 query, 36 train, 36 database images"
    told = capsys.readouterr().out
    assert f"{name}: 12 query, 25 train, 25 database images" in told
    assert told.count(f"protocol {name}") == 2  # before the first cell, and under the table
    assert name in Path("run/table.md").read_text()
    assert {row.protocol for row in read_results(Path("run/results.csv"))} == {name}
