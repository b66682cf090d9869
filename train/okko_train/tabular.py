"""Tables of numbers and words: reading a CSV file, and saying what is wrong with it before anything is learnt.

A column is numeric if every value in it is a number or missing, and else holds categories. Nothing is encoded here;
that is `okko_train.table_encoder`. pandas is welcome and not needed.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Words = NDArray[np.object_]
    Numbers = NDArray[np.float64]

MISSING: Final = ""
"""How a missing category is written."""

MOST_CLASSES: Final = 20
"""A target of whole numbers with more different values than this is taken for a measurement, not for classes."""

FEWEST_ROWS: Final = 10

# The spellings of a missing value that pandas knows too.
_MISSING_SPELLINGS = {"", "na", "n/a", "#n/a", "nan", "null", "none", "-nan", "<na>"}
_MOST_CATEGORIES_SHARE = 0.5  # a column of words with more different values than this share of the rows is a name


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one length, in two blocks.

    Attributes:
        number_names: of the numeric columns.
        numbers: (n, len(number_names)) float64; NaN is missing.
        word_names: of the columns of categories.
        words: (n, len(word_names)) str; "" is missing.
        notes: what was found and done about it, one sentence each.
    """

    number_names: tuple[str, ...]
    numbers: Numbers
    word_names: tuple[str, ...]
    words: Words
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, numeric ones first."""
        return self.number_names + self.word_names

    def rows(self, index: NDArray[Any]) -> Table:
        """Returns the table of some rows."""
        return replace(self, numbers=self.numbers[index], words=self.words[index])

    def column(self, name: str) -> Numbers | Words:
        """Returns a column (n,)."""
        if name in self.number_names:
            return self.numbers[:, self.number_names.index(name)]
        return self.words[:, self.word_names.index(name)]

    def only(self, names: Sequence[str]) -> Table:
        """Returns the table of some columns, in this table's order."""
        numbers = [name for name in self.number_names if name in names]
        words = [name for name in self.word_names if name in names]
        return replace(
            self,
            number_names=tuple(numbers),
            numbers=self.numbers[:, [self.number_names.index(name) for name in numbers]],
            word_names=tuple(words),
            words=self.words[:, [self.word_names.index(name) for name in words]],
        )

    def as_kinds(self, number_names: Sequence[str], word_names: Sequence[str]) -> Table:
        """Returns the same columns with the kinds that another table found, for a table of the same origin.

        Raises:
            ValueError: a column that should be numeric holds words.
        """
        words = [_texts(self.column(name)) for name in word_names]
        numbers = []
        for name in number_names:
            column = self.column(name)
            values = column if name in self.number_names else _as_numbers(column.tolist())
            if values is None:
                raise ValueError(f"column {name!r} holds words, but held numbers when the model was fitted")
            numbers.append(np.asarray(values, np.float64))
        return replace(
            self,
            number_names=tuple(number_names),
            numbers=np.column_stack([np.empty((len(self), 0)), *numbers]),
            word_names=tuple(word_names),
            words=np.column_stack([np.empty((len(self), 0), object), *words]),
        )

    def noting(self, *notes: str) -> Table:
        """Returns the table with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    @classmethod
    def of_columns(cls, columns: dict[str, Sequence[str]], n: int) -> Table:
        """Takes columns of text, as a CSV file has them, and finds out which are numeric."""
        numbers: dict[str, Numbers] = {}
        words: dict[str, Words] = {}
        notes = []
        for name, texts in columns.items():
            plain = [text.strip() for text in texts]
            plain = [MISSING if text.lower() in _MISSING_SPELLINGS else text for text in plain]
            values = _as_numbers(plain)
            if values is None:
                words[name] = np.array(plain, dtype=object)
                continue
            infinite = np.isinf(values)
            if infinite.any():
                values[infinite] = np.nan
                notes.append(f"column {name!r}: {_rows(infinite.sum())} infinite, taken for missing")
            numbers[name] = values
        return cls(
            tuple(numbers),
            np.column_stack([np.empty((n, 0)), *numbers.values()]),
            tuple(words),
            np.column_stack([np.empty((n, 0), object), *words.values()]),
            tuple(notes),
        )

    @classmethod
    def of_frame(cls, frame: Any) -> Table:
        """Takes a pandas DataFrame: numeric columns stay, all others become categories; True and False too.

        Raises:
            ValueError: a numeric column holds infinite values.
        """
        numbers: dict[str, Numbers] = {}
        words: dict[str, Words] = {}
        for label in frame.columns:
            column, name = frame[label], str(label)
            if column.dtype.kind in "iuf":
                numbers[name] = column.to_numpy(dtype=np.float64, na_value=np.nan)
                if np.isinf(numbers[name]).any():
                    raise ValueError(f"column {name!r} holds infinity; put NaN where a number is missing")
            else:
                missing = column.isna().to_numpy()
                words[name] = np.array([MISSING if m else str(v) for m, v in zip(missing, column, strict=True)], object)
        n = len(frame)
        return cls(
            tuple(numbers),
            np.column_stack([np.empty((n, 0)), *numbers.values()]),
            tuple(words),
            np.column_stack([np.empty((n, 0), object), *words.values()]),
        )


def read_table(path: Path) -> Table:
    """Reads a CSV file with a header line; commas, semicolons or tabs.

    Empty fields and NA, N/A, NaN, null, None are missing values.

    Raises:
        OkkoError: there is no such file, or it is not such a table; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise OkkoError(f"{path}: there is no such file; give a CSV file with a header line") from None
    except IsADirectoryError:
        raise OkkoError(f"{path} is a folder; give a CSV file (for photos there is `okko train`)") from None
    except UnicodeDecodeError as error:
        raise OkkoError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8 CSV") from None
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_header(path, header)
        rows = []
        for row in lines:
            if not row:
                continue
            if len(row) != len(header):
                raise OkkoError(
                    f"{path}, line {lines.line_num}: {len(row)} fields, but the header has {len(header)}; "
                    "mend the line (a field with the delimiter in it needs quotes)"
                )
            rows.append(row)
    except csv.Error as error:
        raise OkkoError(f"{path}, line {lines.line_num}: {error}; expected CSV") from None
    if not rows:
        raise OkkoError(f"{path} has a header and no rows; give a table with at least {FEWEST_ROWS}")
    return Table.of_columns({name: [row[i] for row in rows] for i, name in enumerate(header)}, len(rows))


@dataclass(frozen=True, eq=False)
class Problem:
    """A table made ready to learn from.

    Attributes:
        features: the columns to predict from.
        target_name: the column to predict.
        task: "classification" or "regression".
        target: (n,) class names (str) or numbers (float64).
        groups: (n,) rows of one group stay in one fold, or None.
    """

    features: Table
    target_name: str
    task: str
    target: NDArray[Any]
    groups: NDArray[Any] | None


def as_problem(
    table: Table,
    target: str,
    *,
    task: str = "auto",
    group_by: str | None = None,
    ignore: Iterable[str] = (),
) -> Problem:
    """Takes a table apart into features and target, and looks for what is wrong with it.

    Args:
        table: as read.
        target: the column to predict.
        task: "classification", "regression", or "auto": words are classes, and so are up to 20 different whole numbers.
        group_by: a column whose equal values belong together; it is no feature.
        ignore: columns to leave out.

    Raises:
        OkkoError: an unknown column, a missing or constant target, too few rows, nothing to predict from.
    """
    ignore = tuple(ignore)
    for name in (target, *([group_by] if group_by else []), *ignore):
        if name not in table.names:
            near = difflib.get_close_matches(name, table.names, n=3, cutoff=0.5) or list(table.names)[:10]
            raise OkkoError(f"there is no column {name!r}; did you mean {_listed(near)}?")
    if group_by == target:
        raise OkkoError(f"{target!r} is both the target and the column to group by; name two columns")
    if len(table) < FEWEST_ROWS:
        raise OkkoError(f"the table has {len(table)} rows; at least {FEWEST_ROWS} are needed, better a hundred")
    task, values = _target(table, target, task)
    groups = None
    if group_by is not None:
        groups = np.unique(table.column(group_by).astype(str), return_inverse=True)[1]
        if groups.max() < 1:
            raise OkkoError(f"column {group_by!r} has one value alone; grouping needs at least two groups")
    features, notes = _features(table, {target, group_by, *ignore})
    notes += _tell_tales(features, target, values) if task == "classification" else []
    return Problem(features.noting(*notes), target, task, values, groups)


def _target(table: Table, name: str, task: str) -> tuple[str, NDArray[Any]]:
    column = table.column(name)
    numeric = name in table.number_names
    missing = _missing(column)
    if missing.any():
        raise OkkoError(
            f"target column {name!r}: {_rows(missing.sum())} without a value (the first is row {missing.argmax() + 1} "
            "below the header); remove those rows or fill in the values"
        )
    values, counts = np.unique(column, return_counts=True)
    if len(values) == 1:
        raise OkkoError(f"target column {name!r} is {values[0]!s} in every row; there is nothing to predict")
    if task == "auto":
        few_whole = numeric and len(values) <= MOST_CLASSES and all(value == int(value) for value in values)
        task = "classification" if not numeric or few_whole else "regression"
    if task == "regression":
        if not numeric:
            raise OkkoError(f"target column {name!r} holds words such as {values[0]!r}; regression needs numbers")
        return task, column.astype(np.float64)
    if counts.min() < 2:
        lonely = values[int(counts.argmin())]
        raise OkkoError(
            f"target column {name!r}: class {_word(lonely)!r} has one row; each class needs two at least. "
            "Remove it, or use --task regression if the column is a measurement"
        )
    return task, np.array([_word(value) for value in column], dtype=object)


def _features(table: Table, not_features: set[str | None]) -> tuple[Table, list[str]]:
    kept, notes = [], []
    for name in table.names:
        if name in not_features:
            continue
        column = table.column(name)
        numeric = name in table.number_names
        missing = _missing(column)
        different = len(np.unique(column[~missing]))
        if different == 0:
            notes.append(f"column {name!r} is empty: left out")
        elif different == 1 and not missing.any():
            notes.append(f"column {name!r} is {_word(column[0])} in every row: left out")
        elif not numeric and different > max(MOST_CLASSES, _MOST_CATEGORIES_SHARE * len(table)):
            notes.append(f"column {name!r} has {different} different texts in {len(table)} rows: left out as a name")
        else:
            kept.append(name)
            if missing.any():
                how = "the median stands in, and a feature says so" if numeric else "a category of their own"
                notes.append(f"column {name!r}: {_rows(missing.sum())} missing; {how}")
    if not kept:
        raise OkkoError(f"no column is left to predict from ({'; '.join(notes) or 'the target is the only column'})")
    return table.only(kept), notes


def _tell_tales(features: Table, target: str, classes: NDArray[Any]) -> list[str]:
    """Columns of categories that know the class of every row: often the target under another name."""
    notes = []
    for name in features.word_names:
        column = features.column(name)
        pairs = set(zip(column, classes, strict=True))
        values = {value for value, _ in pairs}
        if len(pairs) == len(values) < len(column) / 2:
            notes.append(
                f"column {name!r} alone tells {target!r} in every row; if it will not be known when you predict, "
                f"leave it out: --ignore {name}"
            )
    return notes


def _missing(column: Numbers | Words) -> NDArray[np.bool_]:
    if column.dtype == object:
        return np.array([text == MISSING for text in column], dtype=bool)
    return np.isnan(column.astype(np.float64))


def _texts(column: Numbers | Words) -> Words:
    texts = [MISSING if gone else _word(value) for value, gone in zip(column, _missing(column), strict=True)]
    return np.array(texts, dtype=object)


def _as_numbers(texts: Sequence[str]) -> Numbers | None:
    """Numbers (n,), NaN for missing ones; None if there are words."""
    try:
        return np.array([math.nan if text == MISSING else float(text) for text in texts])
    except ValueError:
        return None


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if len(header) < 2:
        raise OkkoError(f"{path}: the first line names {len(header)} columns; expected a header with at least two")
    for name in header:
        if not name or header.count(name) > 1:
            what = f"the name {name!r} twice" if name else "a column without a name"
            raise OkkoError(f"{path}: the header has {what}; each column needs a name of its own")


def _word(value: Any) -> str:
    """A class as text: 1.0 was written 1."""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def _rows(count: Any) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _listed(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)
