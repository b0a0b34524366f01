"""What stands at a path that a person wrote, however odd the path is.

`pathlib` raises where a name is too long, a folder may not be entered, or links run in a circle; nothing stands there.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_there(path: str | Path) -> bool:
    """Whether a file or folder can be found at the path."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: str | Path) -> bool:
    """Whether a folder can be found at the path."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str | Path) -> bool:
    """Whether a file can be found at the path."""
    return os.path.isfile(path)  # noqa: PTH113


def absolute(path: str | Path) -> Path:
    """The path from the root, with links followed as far as they lead somewhere."""
    return Path(os.path.realpath(path))


def from_home(path: str | Path) -> Path:
    """The path with a leading `~` read as a home folder, where there is such a user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111
