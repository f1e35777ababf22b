"""The file of a tuning run: written after every step, read by a run that goes on."""

import contextlib
import copy
import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gplsq._core import (
    VERSION,
    LoadError,
    describe,
    pack_tree,
    read_saved,
    unfinished,
    unpack_tree,
    write_saved,
)
from gplsq.tuning._fingerprint import fingerprint
from gplsq.tuning._history import History

# What does not change a run.
_FREE = {"verbose", "checkpoint"}


def check_checkpoint(path: Any, random_state: Any) -> None:
    """Refuse what is no path, and a run without a seed, which could not go on."""
    if not isinstance(path, str | os.PathLike):
        msg = f"checkpoint must be the path of a file, or None; got {describe(path)}."
        raise TypeError(msg)
    if os.fspath(path).endswith(("/", os.sep)):
        msg = f"checkpoint must be the path of a file; got {path!r}, a folder. Add a file name."
        raise ValueError(msg)
    if random_state is None:
        msg = "checkpoint needs a random_state, by which a run goes on; got None. Pass a number."
        raise ValueError(msg)


class Checkpoint:
    """Where a run of these settings is kept."""

    def __init__(self, path: Any, settings: Mapping[str, Any]):
        self.path = os.fspath(path)
        self.settings = {
            name: fingerprint(value) for name, value in settings.items() if name not in _FREE
        }
        versions = VERSION, jax.__version__, np.__version__, sys.version_info[:2]
        # The same bits are those of the same programs on a machine of the same kind.
        self.settings["versions"] = fingerprint((versions, jax.default_backend()))

    def beside(self, name: str) -> "Checkpoint":
        """The file of a part of the run that comes before."""
        other = copy.copy(self)
        other.path = f"{self.path}.{name}"
        return other

    def remove(self) -> None:
        """Delete the file, and what a killed process left of it."""
        for path in (self.path, *unfinished(self.path)):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def exists(self) -> bool:
        """Whether there is a file to go on from."""
        return os.path.exists(self.path)

    def write(self, at: Any, history: History, random: Mapping[str, Any]) -> None:
        """Write where a run is, its record, and its generator's state."""
        fields = {field.name: getattr(at, field.name) for field in dataclasses.fields(at)}
        kept = fields["kept"]
        numbers = {name: fields[name] for name in ("rows", "key", "model", "state")}
        numbers |= {"best": fields["best"], "kept": kept or ()}
        value = {
            "settings": self.settings,
            "counts": {n: fields[n] for n in ("stage", "step", "stale", "rejected", "ended")},
            "sizes": [len(rows) for rows in at.rows],
            "has_kept": kept is not None,
            "numbers": pack_tree(numbers),
            "history": history,
            "random": dict(random),
        }
        write_saved(self.path, "state", value)

    def read(self, like: Any) -> tuple[Any, History, dict[str, Any]] | None:
        """What was written last, or None; `like` is the beginning of a run of these settings."""
        for left in unfinished(self.path):
            # Of a process that was killed while it wrote.
            with contextlib.suppress(OSError):
                os.unlink(left)
        if not self.exists():
            return None
        found = read_saved(self.path, "state")
        try:
            changed = [n for n, v in self.settings.items() if found["settings"].get(n) != v]
            if changed:
                msg = (
                    f"{self.path} is the checkpoint of another run: it differs in "
                    f"{', '.join(changed)}. Delete the file to begin anew, or pass another path."
                )
                raise ValueError(msg)
            rows = [np.zeros(size, np.int64) for size in found["sizes"]]
            numbers: Any = {"rows": rows, "key": like.key, "model": like.model}
            numbers |= {"state": like.state, "best": like.best}
            numbers["kept"] = (*like.best, like.state) if found["has_kept"] else ()
            numbers = unpack_tree(found["numbers"], numbers)
            numbers["kept"] = numbers["kept"] or None
            at = dataclasses.replace(like, **found["counts"], **numbers)
            return at, found["history"], found["random"]
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"{self.path} cannot be loaded: it is not the state of a tuning run ({error!r})."
            raise LoadError(msg) from error
