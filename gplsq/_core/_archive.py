"""The file of a saved model or state: a zip archive of arrays and a manifest, and one checksum.

The archive's comment ends with the SHA-256 of every byte before it, so that nothing in the file can
change unseen, and other programs can still open it. Members are stored as they are, not compressed.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

# What a file may be, and where one comes from.
_SOURCES = {
    "model": "GPRegressor.save or GPClassifier.save",
    "state": "gplsq.save_state, or by tuning with checkpoint=",
}
_SUM_BYTES = 64
_MANIFEST = "manifest.json"
_CHUNK = 2**20
# What is written and not yet complete, beside its target: folder, name and a random number.
_PART, _PART_BYTES = os.path.join("{}", ".{}.{}.part"), 8
# The first bytes of an archive: a local header of 30 bytes, then the name of its first member.
_HEAD = b"PK\x03\x04", _MANIFEST.encode()


class LoadError(ValueError):
    """A file is nothing that gplsq saved, is damaged, or needs what this program does not have."""


def _comment(kind: str) -> bytes:
    return f"gplsq {kind}; SHA-256 of all bytes before this sum: ".encode()


def write_archive(
    path: Any, manifest: dict[str, Any], arrays: dict[str, np.ndarray], kind: str = "model"
) -> None:
    """Write a file as a whole or not at all.

    Parameters
    ----------
    path
        Where; a file that is there is replaced.
    manifest
        What JSON can express.
    arrays
        By the name of their member, without ``.npy``.
    kind
        ``"model"`` or ``"state"``.

    Raises
    ------
    OSError
        If the file cannot be written; a file that was there before is as it was.
    """
    with _in_place_of(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            text = json.dumps(manifest, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            archive.writestr(_member(_MANIFEST), text.encode())
            for name, array in arrays.items():
                with archive.open(_member(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, (1, 0), allow_pickle=False)
            archive.comment = _comment(kind) + b"0" * _SUM_BYTES
        size = file.tell()
        total = _sum_of(file, size - _SUM_BYTES)
        file.seek(size - _SUM_BYTES)
        file.write(total)


@contextlib.contextmanager
def read_archive(
    path: Any, kind: str = "model"
) -> Iterator[tuple[dict[str, Any], Callable[[str], np.ndarray]]]:
    """The manifest of a file that is whole, and a function that reads an array by name.

    Raises
    ------
    LoadError
        If the file is not whole or not of this kind.
    OSError
        If it cannot be read.
    """
    path = os.fspath(path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        msg = f"{path} is not a file. Pass the path that the {kind} was saved to."
        raise LoadError(msg)
    with open(path, "rb") as file:
        size = _verified_size(path, file, kind)
        try:
            archive = zipfile.ZipFile(file)
            infos = {info.filename: info for info in archive.infolist()}
            plain = all(info.compress_type == zipfile.ZIP_STORED for info in infos.values())
            # So that a few bytes cannot ask for much memory.
            bounded = sum(info.file_size for info in archive.infolist()) <= size
            if not plain or not bounded or len(infos) < len(archive.infolist()):
                msg = "its members are compressed, overlap or repeat"
                raise ValueError(msg)
            manifest = json.loads(archive.read(_MANIFEST), parse_constant=_refuse_constant)
        except _UNREADABLE as error:
            _raise_if_of_the_disk(error)
            msg = f"{path} is no {kind} that this gplsq can read: {error}."
            raise LoadError(msg) from error

        def array(name: str) -> np.ndarray:
            try:
                with archive.open(f"{name}.npy") as member:
                    return _array(member, infos[f"{name}.npy"].file_size)
            except (RuntimeError, OSError) as error:  # what else is wrong is said by who asks
                _raise_if_of_the_disk(error)
                msg = f"{path} is no {kind} that this gplsq can read: {error}."
                raise LoadError(msg) from error

        yield manifest, array


# What zipfile and json raise for what is no archive of ours; RuntimeError for an encrypted one.
_UNREADABLE = (
    ValueError,
    KeyError,
    RecursionError,
    EOFError,
    RuntimeError,
    OSError,
    zipfile.BadZipFile,
)


def _raise_if_of_the_disk(error: BaseException) -> None:
    """Hand on what is no fault of the file; EINVAL is a position before its beginning."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        raise error


def _array(member: IO[bytes], size: int) -> np.ndarray:
    """An array of real numbers from a member of so many bytes."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        msg = f"an array in the npy format {version}"
        raise ValueError(msg)
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.kind not in "biuf":
        msg = f"an array of dtype {dtype}"
        raise ValueError(msg)
    data = member.read(size)
    # Refused by `frombuffer` and `reshape` where data and shape differ in length.
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def _verified_size(path: str, file: IO[bytes], kind: str) -> int:
    size, comment = file.seek(0, os.SEEK_END), _comment(kind)
    length = len(comment) + _SUM_BYTES
    file.seek(max(0, size - length))
    trailer = file.read(length)
    file.seek(0)
    head = file.read(64)
    file.seek(0)
    ours = head.startswith(_HEAD[0]) and head[30:].startswith(_HEAD[1])
    if trailer.startswith(comment) and len(trailer) == length:
        if _sum_of(file, size - _SUM_BYTES) == trailer[-_SUM_BYTES:]:
            file.seek(0)
            return size
        msg = f"{path} is damaged: its checksum is another one. Save the {kind} again, or copy it."
    elif ours and not any(_comment(other) in trailer for other in _SOURCES):
        msg = (
            f"{path} is a {kind} saved by gplsq that was cut off, or that has something behind its "
            "end. Copy it again; archive programs must not repack it."
        )
    else:
        msg = f"{path} is no {kind} saved by gplsq. Pass a file written by {_SOURCES[kind]}."
    raise LoadError(msg)


def _sum_of(file: IO[bytes], count: int) -> bytes:
    """SHA-256 of the first `count` bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while count > 0 and (part := file.read(min(count, _CHUNK))):
        digest.update(part)
        count -= len(part)
    return digest.hexdigest().encode()


def _member(name: str) -> zipfile.ZipInfo:
    """Always the same date and rights: one model gives one file, byte for byte."""
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    return info


def _refuse_constant(text: str) -> Any:
    msg = f"{text} is not JSON"
    raise ValueError(msg)


@contextlib.contextmanager
def _in_place_of(path: Any) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` once it is complete and on the disk."""
    if os.fspath(path).endswith(("/", os.sep)):
        msg = f"{path} is the name of a folder. Pass the path of a file."
        raise OSError(msg)
    target = os.path.realpath(os.fspath(path))
    if not os.path.isdir(os.path.dirname(target)):
        msg = f"{path} cannot be written: its folder does not exist. Make the folder first."
        raise FileNotFoundError(msg)
    exists = os.path.lexists(target)
    if exists and not stat.S_ISREG(os.stat(target).st_mode):
        msg = f"{path} is not a file, and is not replaced. Pass the path of a file."
        raise OSError(msg)
    part = _PART.format(*os.path.split(target), secrets.token_hex(_PART_BYTES))
    try:
        with open(part, "xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if exists:
            shutil.copymode(target, part)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    _settle(os.path.dirname(target))


def unfinished(path: Any) -> list[str]:
    """Parts of `path` that processes left which were killed while they wrote, or still write."""
    folder, name = map(glob.escape, os.path.split(os.path.realpath(os.fspath(path))))
    return glob.glob(_PART.format(folder, name, "[0-9a-f]" * (2 * _PART_BYTES)))


def _settle(folder: str) -> None:
    """Put the new name on the disk too, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
