"""Reads a domain pack: a YAML file, or one that comes with Patchlight."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from patchlight.errors import InputError, Place
from patchlight.on_disk import is_there
from patchlight.packs.check import check_pack
from patchlight.packs.problem import FileRefused
from patchlight.packs.spec import Pack, PackFile
from patchlight.packs.yaml_source import parse_source, read_source, suggestion


def builtin_packs() -> list[str]:
    """The names of the packs that come with Patchlight."""
    folder = resources.files("patchlight.packs") / "builtin"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_pack(source: str | Path) -> Pack:
    """The pack of a YAML file or of a built-in name (`epilepsy`), with no error left in it.

    Raises InputError with file:line:column for each error of form or content; warnings are `check_pack`'s.
    """
    pack = parse_pack(source)
    errors = [problem for problem in check_pack(pack) if problem.severity == "error"]
    if errors:
        raise FileRefused(errors)
    return pack


def parse_pack(source: str | Path) -> Pack:
    """The pack as written: its form is right, its content is unchecked (see `check_pack`).

    Raises InputError where the file cannot be read or a key or value has the wrong form.
    """
    name = str(source)
    if name in builtin_packs():
        entry = resources.files("patchlight.packs") / "builtin" / f"{name}.yaml"
        read = parse_source(entry.read_text(encoding="utf-8"), Path(str(entry)), PackFile, "pack")
    else:
        _refuse_unknown_name(name)
        read = read_source(source, PackFile, "pack")
    return Pack(read.value, read.places)


def _refuse_unknown_name(name: str) -> None:
    if Path(name).suffix in {".yaml", ".yml"} or is_there(name):
        return
    known = builtin_packs()
    fix = suggestion(name, known) or f"give a .yaml file or one of: {', '.join(known)}"
    what = f"no pack file and no built-in pack is called {name[:100]!r}"
    raise InputError("pack-not-found", what, where=Place(Path(name[:100])), fix=fix)
