"""Files that are whole or absent, and what killed processes leave behind."""

import os
import time
from pathlib import Path

from udmsh_pl.safe.files import atomic_path, sweep


def test_what_a_killed_process_left_is_swept_later(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    with atomic_path(tmp_path / "a.csv") as partial:
        name = partial.name
        partial.touch()
    old = [tmp_path / name, tmp_path / "cells" / name.replace("a.", "codes.v2.")]
    old += [tmp_path / "cells" / name.removesuffix(".csv")]
    kept = [tmp_path / "cells" / one for one in ("codes.npz", ".lock", "a.part.csv", ".x.part")]
    young = tmp_path / "cells" / name
    for path in (*old, *kept, young):
        path.write_text("half")
    for path in (*old, *kept):
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    sweep(tmp_path)
    assert not [path for path in old if path.exists()]
    assert all(path.exists() for path in (*kept, young))
    sweep(tmp_path / "none")
