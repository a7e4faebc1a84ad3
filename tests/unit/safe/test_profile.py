"""Where the time of a command goes: parts that add up, in one thread."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest

from udmsh_pl.safe.profile import clock, profiled, wait_for, write_profile


def test_a_part_is_less_the_parts_inside_it():
    with profiled() as profile:
        with clock("steps"):
            sleep(0.02)
            with clock("teacher"):
                sleep(0.1)
        with clock("steps"):
            sleep(0.02)
    assert list(profile.parts) == ["teacher", "steps"]
    assert 0.1 <= profile.parts["teacher"].wall < 0.5
    assert 0.04 <= profile.parts["steps"].wall < 0.1  # neither twice nor with the teacher


def test_a_part_that_fails_counts_too():
    with profiled() as profile:
        with pytest.raises(OSError, match="gone"), clock("outer"), clock("inner"):
            raise OSError("gone")
        with clock("after"):
            pass
    assert list(profile.parts) == ["inner", "outer", "after"]


def test_what_is_waited_for_is_the_part_and_not_the_work_between():
    def slow():
        for number in range(3):
            sleep(0.02)
            yield number

    with profiled() as profile:
        found = []
        for item in wait_for("decode", slow()):
            found.append(item)
            sleep(0.1)
    assert found == [0, 1, 2]
    assert 0.06 <= profile.parts["decode"].wall < 0.25


def test_other_threads_and_programs_without_a_profile_count_nothing():
    def work() -> None:
        with clock("elsewhere"):
            pass

    work()
    with profiled() as profile, ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert not profile.parts


def test_the_written_parts_add_up_to_the_whole(tmp_path: Path):
    with profiled():
        with clock("steps"):
            sleep(0.05)
        text = write_profile(tmp_path)
    assert (tmp_path / "profile.txt").read_text() == text + "\n"
    seconds = {line.split()[0]: float(line.split()[1]) for line in text.splitlines()[1:]}
    assert list(seconds) == ["steps", "other", "whole"]
    assert seconds["steps"] + seconds["other"] == pytest.approx(seconds["whole"], abs=0.02)
    assert seconds["steps"] >= 0.05
