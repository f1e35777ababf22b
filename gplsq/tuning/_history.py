"""The record of a tuning run, readable by people and by pandas."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gplsq._core import savable


def _packed(history: "History") -> dict[str, Any]:
    """Column by column where all records have the same keys, so that arrays are few."""
    records = history.records
    if any(record.keys() != records[0].keys() for record in records):
        return {"message": history.message, "records": records}
    keys = list(records[0]) if records else []
    columns = {key: [record[key] for record in records] for key in keys}
    for key, values in columns.items():
        same = all(
            isinstance(value, np.ndarray | np.generic)
            and (value.shape, value.dtype) == (values[0].shape, values[0].dtype)
            for value in values
        )
        columns[key] = np.stack(values) if same else values  # type: ignore[assignment]
    return {"message": history.message, "columns": columns}


def _unpacked(values: dict[str, Any]) -> "History":
    history = History()
    history.message = values["message"]
    if "records" in values:
        history.records = values["records"]
    else:
        columns = values["columns"]
        rows = zip(*columns.values(), strict=True)
        history.records = [dict(zip(columns, row, strict=True)) for row in rows]
    return history


@savable(pack=_packed, unpack=_unpacked)
class History:
    """One record (a dict) a step; prints as a table, and `pandas.DataFrame(list(history))` works.

    Keys of a record: ``step``; ``start``, 0 or the number of the restart; ``rows`` of the subset;
    ``loss`` of the step; ``exam``, the loss on the level's fixed subset that decides which step is
    kept (None where it was not taken); ``noise_variance``; ``seconds`` since the start;
    ``accepted``, False for a step whose loss was not finite; and one entry for each hyperparameter.
    Targets are in the units the tuner got.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.message = ""

    def append(self, record: dict[str, Any]) -> None:
        """Add a record."""
        self.records.append(record)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    @staticmethod
    def hyperparameters(record: dict[str, Any]) -> dict[str, Any]:
        """The entries of a record that are hyperparameters, the noise variance first."""
        return {key: value for key, value in record.items() if key not in _OF_A_STEP}

    @property
    def failures(self) -> str:
        """Steps without a finite loss, and the hyperparameters of the first; empty if none."""
        failed = [record for record in self.records if not record["accepted"]]
        if not failed:
            return ""
        values = self.hyperparameters(failed[0])
        named = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        return (
            f"{len(failed)} of {len(self)} steps had no finite loss, the first of them step "
            f"{failed[0]['step']} at {named}"
        )

    def __str__(self) -> str:
        lines = ["  step   rows        loss        exam  noise var.  seconds"]
        shown = range(0, len(self.records), max(1, len(self.records) // 12))
        for i in sorted({*shown, len(self.records) - 1} if self.records else ()):
            r = self.records[i]
            exam = "" if r["exam"] is None else f"{r['exam']:.5g}"
            lines.append(
                f"{r['step']:6d} {r['rows']:6d} {r['loss']:11.5g} {exam:>11} "
                f"{r['noise_variance']:11.3g} {r['seconds']:8.1f}"
            )
        return "\n".join([*lines, *filter(None, (self.failures, self.message))])

    __repr__ = __str__


# What a record holds beside hyperparameters.
_OF_A_STEP = frozenset({"step", "start", "rows", "loss", "exam", "seconds", "accepted"})


def _short(value: Any) -> str:
    """A hyperparameter in a few words: many numbers by the least and the greatest."""
    numbers = np.ravel(np.asarray(value, float))
    if numbers.size > 4:
        return f"{numbers.min():.3g} to {numbers.max():.3g}"
    return ", ".join(f"{number:.3g}" for number in numbers)
