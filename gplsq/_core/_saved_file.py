"""One value in one file: its head says what it is, the version of its format, and who wrote it."""

from collections.abc import Callable
from typing import Any

from gplsq._core._archive import LoadError, read_archive, write_archive
from gplsq._core._encoding import Decoder, Encoder
from gplsq._core._version import VERSION, written_by

# The newest version of each kind of file. Files of older versions are read.
_VERSIONS = {"model": 1, "state": 1}


def write_saved(path: Any, kind: str, value: Any) -> None:
    """Write what an `Encoder` can express, with a checksum, as a whole or not at all.

    Parameters
    ----------
    path
        A file there is replaced.
    kind
        ``"model"`` or ``"state"``.
    value
        What the file holds.

    Raises
    ------
    TypeError
        If a part of the value cannot be expressed: by its place.
    OSError
        If the file cannot be written; one that was there before is as it was.
    """
    encoder = Encoder()
    manifest = {
        "format": f"gplsq {kind}",
        "format_version": _VERSIONS[kind],
        "written_by": written_by(),
        kind: encoder.encode(value, kind),
    }
    write_archive(path, manifest, encoder.arrays, kind)


def read_saved(path: Any, kind: str, check: Callable[[Any], None] = lambda value: None) -> Any:
    """What `write_saved` wrote; `check` refuses, by raising, a value that is not of the kind.

    Raises
    ------
    LoadError
        For anything else, and for a version of the format that is newer than this program.
    OSError
        If the file cannot be read.
    """
    with read_archive(path, kind) as (manifest, array):
        try:
            _check_head(manifest, kind)
            value = Decoder(array).decode(manifest[kind])
            check(value)
        except LoadError as error:
            msg = f"{path} cannot be loaded: {error}"
            raise LoadError(msg) from None
        except OSError:
            raise
        except Exception as error:
            # A file with a valid checksum that was not written here: decoding may raise anything.
            msg = (
                f"{path} cannot be loaded: its content is not that of a {kind} "
                f"({type(error).__name__}: {error})."
            )
            raise LoadError(msg) from error
    return value


def _check_head(manifest: Any, kind: str) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != f"gplsq {kind}":
        msg = f"its manifest is not that of a gplsq {kind}"
        raise LoadError(msg)
    version, newest = manifest["format_version"], _VERSIONS[kind]
    if type(version) is not int or version < 1:
        msg = f"it has the format version {version!r}"
        raise LoadError(msg)
    if version > newest:
        msg = (
            f"it has the format version {version}, written by gplsq "
            f"{manifest['written_by']['gplsq']}; this is gplsq {VERSION}, which reads versions up "
            f"to {newest}. Install a newer gplsq."
        )
        raise LoadError(msg)
