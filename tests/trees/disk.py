"""A folder of tiny pictures, and everything that happens to people's folders."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

FOLDERS = (
    "", "2019", "2019/summer", "alben", "e\u0301te\u0301", "new\nline", "x.png", "100%", "@eaDir",
    "2019/@EADIR", "#recycle", "lost+found", ".thumbnails", "Screenshots", "sp ace/-dash",
)  # fmt: skip
NAMES = (
    "a.png", "b.png", "c.bmp", "d.bmp", "E.PNG", "-f.png", "g h.png", "e\u0301.png", "\u00e9.png",
    "n\nl.png", "back\\slash.png", "\udcff\udcfe.png", "100%.png", ".hidden.png", "._a.png",
    "video.mov", "noending", "l" * 240 + ".png", "'q\".png", "[x].png", "note.txt", "s;t.png",
)  # fmt: skip
TIMES = (1, 10**18, 1_600_000_000_123_456_789, 4_102_444_800 * 10**9)


def contents(folder: Path, count: int = 24) -> list[bytes]:
    """Small pictures, PNG of various and BMP of equal sizes, and files that are no pictures."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = folder / f"content.{'bmp' if number % 2 else 'png'}"
        Image.fromarray(pixels).resize((8, 8), Image.Resampling.NEAREST).save(path)
        found.append(path.read_bytes())
        path.unlink()
    return [*found, b"", b"no picture", found[0][:40]]


class Disk:
    """The folder ``root``, a second one ``other`` on another file system, and their mutations.

    Args:
        root: of the pictures
        other: elsewhere; links lead there
        choices: decides everything
        pool: what files hold
    """

    def __init__(self, root: Path, other: Path, choices: Random, pool: list[bytes]) -> None:
        self.root, self.other, self.choices, self.pool = root, other, choices, pool
        self.done: list[str] = []
        root.mkdir(parents=True)
        other.mkdir(parents=True)
        for _ in range(choices.randint(3, 14)):
            self.write()
        for number in range(2):
            (other / f"out{number}.png").write_bytes(pool[number])

    def mutate(self) -> None:
        """Do something; what the system refuses does not happen."""
        name, change = self.choices.choice(CHANGES)
        self.done.append(name)
        with suppress(OSError, shutil.Error):
            change(self)

    def write(self) -> None:
        """A file, new or again."""
        path = self.new_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink():
            self.put(path, self.content())

    def put(self, path: Path, content: bytes) -> None:
        """Write a file; never into a pipe, which would wait for a reader."""
        if path.exists() and not path.is_file():
            raise FileExistsError
        path.write_bytes(content)

    def content(self) -> bytes:
        """A picture, seldom none."""
        return self.choices.choice(self.pool if self.choices.random() < 0.1 else self.pool[:-3])

    def new_path(self) -> Path:
        """A path that may be taken."""
        return self.root / self.choices.choice(FOLDERS) / self.choices.choice(NAMES)

    def entry(self, folders: bool = False) -> Path:
        """A file, or a folder."""
        found = []
        for place, inner, files in os.walk(self.root):
            found += [Path(place, name) for name in (inner if folders else files)]
        if not found:
            raise FileNotFoundError
        return self.choices.choice(sorted(found))

    def overwrite_like(self) -> None:
        """Other bytes of the same size under the same times."""
        path = self.entry()
        facts = path.stat()
        fitting = [one for one in self.pool if len(one) == facts.st_size]
        if fitting:
            self.put(path, self.choices.choice(fitting))
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    def swap(self) -> None:
        """Two files change names; their times are made equal before, seldom."""
        one, two = self.entry(), self.entry()
        if self.choices.random() < 0.5:
            for path in (one, two):
                os.utime(path, ns=(1, 1))
        between = self.root / "between"
        one.rename(between)
        if one != two:
            two.rename(one)
        between.rename(two)

    def move(self) -> None:
        """A file to another name, over what is there."""
        target = self.new_path()
        target.parent.mkdir(parents=True, exist_ok=True)
        self.entry().rename(target)

    def move_folder(self) -> None:
        """A folder to another name."""
        self.entry(folders=True).rename(self.root / f"moved{self.choices.randrange(3)}")

    def across(self) -> None:
        """A file to the other file system and back: a new inode, the old time."""
        path = self.entry()
        shutil.move(path, self.other / "away")
        shutil.move(self.other / "away", path)

    def copy(self) -> None:
        """A copy, with its time or without."""
        target = self.new_path()
        target.parent.mkdir(parents=True, exist_ok=True)
        self.choices.choice((shutil.copy, shutil.copy2))(self.entry(), target)

    def hard_link(self) -> None:
        """One file, two names."""
        os.link(self.entry(), self.new_path())

    def link(self) -> None:
        """A link to a file, to a folder, into the other file system, to nothing, or to itself."""
        path = self.new_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        targets = (
            self.other / "out0.png", self.other, self.root, Path("nowhere.png"), path,
            self.other / "away.png",
        )  # fmt: skip
        if self.choices.random() < 0.4:
            path.symlink_to(self.entry())
        else:
            path.symlink_to(self.choices.choice(targets))

    def link_instead(self) -> None:
        """A file moves to the other file system, and a link stands for it; or its target goes."""
        path = self.entry()
        target = self.other / f"t{self.choices.randrange(4)}.png"
        if self.choices.random() < 0.5:
            target.unlink()
        else:
            shutil.move(path, target)
            path.symlink_to(target)

    def link_folder_instead(self) -> None:
        """A folder moves away, and a link stands for it."""
        path = self.entry(folders=True)
        target = self.other / f"folder{self.choices.randrange(99)}"
        shutil.move(path, target)
        path.symlink_to(target)

    def into_folder(self) -> None:
        """A file becomes a folder, or a folder a file."""
        folders = self.choices.random() < 0.4
        path = self.entry(folders)
        if folders:
            shutil.rmtree(path)
            path.write_bytes(self.content())
        else:
            path.unlink()
            path.mkdir()

    def close(self, folders: bool) -> None:
        """Nobody may open a file, or a folder."""
        self.entry(folders).chmod(0)

    def empty(self) -> None:
        """All files of a folder go."""
        folder = self.entry(folders=True)
        for path in folder.iterdir():
            if not path.is_dir():
                path.unlink()

    def most_go(self) -> None:
        """Most files go."""
        for place, _, files in list(os.walk(self.root)):
            for name in files:
                if self.choices.random() < 0.8:
                    Path(place, name).unlink()

    def open_all(self) -> None:
        """Everything can be opened again."""
        for place, folders, files in os.walk(self.root):
            for name in [*folders, *files]:
                path = Path(place, name)
                if not path.is_symlink():
                    path.chmod(0o755)


CHANGES: list[tuple[str, Callable[[Disk], object]]] = [
    *[("write", Disk.write)] * 4,
    *[("delete", lambda disk: disk.entry().unlink())] * 2,
    *[("move", Disk.move)] * 3,
    ("overwrite like", Disk.overwrite_like),
    ("overwrite", lambda disk: disk.put(disk.entry(), disk.content())),
    ("swap", Disk.swap),
    ("move folder", Disk.move_folder),
    ("across", Disk.across),
    *[("copy", Disk.copy)] * 2,
    *[("hard link", Disk.hard_link)] * 2,
    *[("link", Disk.link)] * 3,
    ("link instead", Disk.link_instead),
    ("link folder instead", Disk.link_folder_instead),
    ("into folder", Disk.into_folder),
    ("touch", lambda disk: os.utime(disk.entry(), ns=(1, disk.choices.choice(TIMES)))),
    ("close file", lambda disk: disk.close(False)),
    ("close folder", lambda disk: disk.close(True)),
    ("open all", Disk.open_all),
    ("delete folder", lambda disk: shutil.rmtree(disk.entry(folders=True))),
    ("empty", Disk.empty),
    ("most go", Disk.most_go),
    ("nomedia", lambda disk: (disk.entry(folders=True) / ".nomedia").touch()),
    ("pipe", lambda disk: os.mkfifo(disk.new_path())),
]
