"""Files that appear together or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def all_or_nothing(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A staging folder whose entries take the place of `names` in `folder` when the block ends without an error.

    Whatever of `names` was there before goes, and whatever else lies in `folder` stays. Everything is written first;
    then entries are renamed, and should a rename fail, those made are taken back: `folder` holds the old set or the
    new one. An error inside the block leaves `folder` as it was, and none where there was none.
    """
    folder = Path(folder)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    stage: Path | None = None
    try:
        stage = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))  # inside, so that renames stay on one disk
        fresh, old = stage / "new", stage / "old"
        fresh.mkdir()
        old.mkdir()
        yield fresh
        _swap(folder, names, fresh, old)
    except BaseException:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for each in made:  # innermost first; one that holds anything else stays
            try:
                each.rmdir()
            except OSError:
                break
        raise
    shutil.rmtree(stage, ignore_errors=True)


def _swap(folder: Path, names: Sequence[str], fresh: Path, old: Path) -> None:
    done: list[tuple[Path, Path]] = []  # (from, to), for the way back
    try:
        for name in names:
            there = folder / name
            if there.is_symlink() or there.exists():
                there.rename(old / name)
                done.append((there, old / name))
        for name in names:
            if (fresh / name).exists():
                (fresh / name).rename(folder / name)
                done.append((fresh / name, folder / name))
    except BaseException:
        for before, after in reversed(done):
            after.rename(before)
        raise
