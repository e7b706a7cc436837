"""Document rows to the features of a corpus or of a model, each with n and standard error.

Every feature is a ratio R = sum x / sum y over documents: of a mean y = 1, of a pooled rate y is what it is per, of a
share x says whether the document has the label. Its standard error is the linearised one, sqrt(sum (x - R y)^2) / sum y
with documents, or groups of documents where the corpus has such, as the independent units.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from njsl.core.run import RECORD, write_atomic
from njsl.core.types import ConfigError, DataError
from njsl.tag.features import PUBLISHED
from njsl.tag.shards import DOCUMENTS

FEATURES, LONG, CORPORA = "features.csv", "features_long.csv", "corpora.json"
_WITHOUT_STD = ("entropy_mean",)  # a figure of the whole corpus
LONG_COLUMNS = ("id", "corpus", "feature", "value", "n", "groups", "std", "se", "low", "high", "unit", "meaning")


@dataclass(frozen=True)
class _Ratio:
    """One feature: how x and y are made of a row.

    Attributes:
        feature: its full name.
        column: of x; for shares of the label.
        about: the column's metadata.
        label: of a share; ``*`` is any other.
        spread: whether the standard deviation over documents is a feature too.
    """

    feature: str
    column: str
    about: Mapping[str, Any]
    label: str | None = None
    spread: bool = False

    def parts(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """x and y of each document, float64."""
        column = table[self.column]
        if self.label is not None:
            named = list(self.about["shares"])
            labels = column.to_pandas()
            hit = ~labels.isin([*named]) & labels.notna() if self.label == "*" else labels == self.label
            total = labels.notna() if "*" in named else labels.isin(named)
            return 100.0 * hit.to_numpy(float), total.to_numpy(float)
        x = column.to_numpy().astype(float)
        if self.about["per"] is not None:
            return self.about["scale"] * x, table[self.about["per"]].to_numpy().astype(float)
        known = ~np.isnan(x)
        return np.where(known, x, 0.0), known.astype(float)


def features(folder: Path, ids: Mapping[str, str]) -> pd.DataFrame:
    """The features of all corpora of a run folder, in the order of its columns.

    Args:
        folder: holds ``documents/<corpus>/*.parquet``, and ``corpora.json`` for what is measured over whole corpora.
        ids: a row's name by run and corpus, ``RUN/CORPUS``, or by corpus; others keep their corpus' name.

    Returns:
        A row per corpus and feature: ``LONG_COLUMNS``; n is the number of documents it is over, groups of independent
        units, std over documents [the feature's unit], se the standard error of value, low and high the ends of the
        95 % interval of what has one of its own.

    Raises:
        DataError: there are no document files, or one cannot be read.
    """
    record = folder / CORPORA
    if not record.is_file():
        raise DataError(f"{folder}: no finished run of tag.py: it has no {CORPORA}")
    corpora: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = []
    for corpus, facts in corpora["corpora"].items():
        named = {"id": ids.get(f"{folder.name}/{corpus}", ids.get(corpus, corpus)), "corpus": corpus}
        parts = sorted((folder / DOCUMENTS / corpus).glob("*.parquet"))
        if not parts:
            raise DataError(f"{folder / DOCUMENTS / corpus}: no document files; is the run finished?")
        rows += [{**named, **row} for row in _of_documents(parts)]
        figures = facts["figures"]
        for figure in (figure for figure in figures.values() if figure["feature"]):
            ends = [figures[end]["value"] for end in figure["interval"] or ()]
            rows.append(
                {**named, "n": facts["documents"], **dict(zip(("low", "high"), ends, strict=False))}
                | {key: figure[key] for key in ("feature", "value", "unit", "meaning")}
            )
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS))


def labels(folder: Path, corpus: str, column: str) -> dict[str, int]:
    """How often each label stands in a column of a corpus; documents without one are left out."""
    counts: Counter[str] = Counter()
    for part in sorted((folder / DOCUMENTS / corpus).glob("*.parquet")):
        counts.update(pq.read_table(part, columns=[column], use_threads=False)[column].drop_null().to_pylist())
    return dict(sorted(counts.items()))


def wide(long: pd.DataFrame) -> pd.DataFrame:
    """A row per id in the form of the published table: ``id`` first, then its 61 columns as far as they are there.

    Args:
        long: of ``features``.

    Raises:
        DataError: two taggers give the same feature.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, part in long.groupby("id", sort=False):
        row = rows[str(name)] = {}
        for feature, value, std in zip(part["feature"], part["value"], part["std"], strict=True):
            if feature in row:
                raise DataError(f"{name}: feature {feature!r} comes from two taggers; choose one of them")
            row[feature] = value
            if feature.endswith("_mean") and feature not in _WITHOUT_STD and not math.isnan(std):
                row[feature.removesuffix("_mean") + "_std"] = std
    table = pd.DataFrame.from_dict(rows, orient="index")
    ordered = [name for name in PUBLISHED if name in table] + [name for name in table if name not in PUBLISHED]
    return table[ordered].rename_axis("id").reset_index()


def collect(runs: Sequence[str], ids: Mapping[str, str]) -> pd.DataFrame:
    """The features of several finished runs.

    Args:
        runs: folders of ``tag.py``.
        ids: see ``features``.

    Returns:
        A row per id and feature, as ``features``.

    Raises:
        ConfigError: no runs.
        DataError: a folder is no finished run, two were tagged with different tokenizers, or two rows have one name.
    """
    if not runs:
        raise ConfigError("aggregate.runs: expected at least one folder of a finished run of tag.py, got none")
    tokenizers: dict[str, str] = {}
    for run in runs:
        record = Path(run).expanduser() / CORPORA
        if not record.is_file():
            there = "is no finished run of tag.py" if Path(run).expanduser().is_dir() else "is no folder"
            raise DataError(f"aggregate.runs: {run} {there}; expected a folder with {CORPORA} and {RECORD}")
        known = json.loads(record.read_text(encoding="utf-8"))["tokenizer"]
        tokenizers[f"{known['name']} ({known['sha256'][:8]})"] = run
    if len(tokenizers) > 1:
        named = ", ".join(f"{name} in {run}" for name, run in tokenizers.items())
        raise DataError(f"aggregate.runs: tagged with different tokenizers, which do not compare: {named}")
    parts: list[pd.DataFrame] = []
    seen: set[str] = set()
    for run in runs:
        folder = Path(run).expanduser().resolve()
        parts.append(features(folder, ids))
        for name, corpus in parts[-1][["id", "corpus"]].drop_duplicates().itertuples(index=False):
            if name in seen:
                one = f"{folder.name}/{corpus}"
                raise DataError(
                    f"aggregate.ids: {name!r} would name two rows; name this one by +aggregate.ids={{{one}: NAME}}"
                )
            seen.add(name)
    return pd.concat(parts, ignore_index=True)


def write(long: pd.DataFrame, output: Path) -> None:
    """Write ``features_long.csv``, a row per id and feature, and ``features.csv``, a row per id."""
    write_atomic(output / LONG, long.to_csv(index=False, lineterminator="\n"))
    write_atomic(output / FEATURES, wide(long).to_csv(index=False, lineterminator="\n"))


def _of_documents(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    schema = pq.read_schema(parts[0])
    ratios = list(_ratios(schema))
    count = len(ratios)
    sums_x, sums_y, sums_n = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
    for table in _tables(parts):
        for i, ratio in enumerate(ratios):
            x, y = ratio.parts(table)
            sums_x[i] += x.sum()
            sums_y[i] += y.sum()
            sums_n[i] += len(y) if ratio.about["per"] is not None else int(y.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        values = sums_x / sums_y
    squares, grouped = _residuals(parts, ratios, values)
    for i, ratio in enumerate(ratios):
        n, units = int(sums_n[i]), grouped[i][0]
        within = squares[i] / (n - 1) if n > 1 else math.nan
        variance = grouped[i][1] * units / (units - 1) if units > 1 else math.nan
        yield {
            "feature": ratio.feature,
            "value": values[i],
            "n": n,
            "groups": units,
            "std": math.sqrt(within) if ratio.spread else math.nan,
            "se": math.sqrt(variance) / sums_y[i] if sums_y[i] else math.nan,
            "unit": _unit(ratio),
            "meaning": ratio.about["meaning"],
        }


def _residuals(
    parts: Sequence[Path], ratios: Sequence[_Ratio], values: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, float]]]:
    """Sum of squared x - R y over documents, and over groups their number and the sum of their squared sums."""
    squares = np.zeros(len(ratios))
    sums: list[dict[str, float]] = [defaultdict(float) for _ in ratios]
    alone = [[0, 0.0] for _ in ratios]  # documents that are their own group
    for table in _tables(parts):
        single = table["id"].to_pandas() == table["group"].to_pandas()
        single_, groups = single.to_numpy(bool), table["group"].to_pandas().to_numpy()[~single.to_numpy(bool)]
        for i, ratio in enumerate(ratios):
            x, y = ratio.parts(table)
            e = x - np.nan_to_num(values[i]) * y
            squares[i] += (e**2).sum()
            counted = y > 0
            alone[i][0] += int((counted & single_).sum())
            alone[i][1] += float((e[single_] ** 2).sum())
            for group, part, there in zip(groups, e[~single_], counted[~single_], strict=True):
                if there:
                    sums[i][group] += part
    return squares, [
        (int(number) + len(held), float(square) + sum(value**2 for value in held.values()))
        for (number, square), held in zip(alone, sums, strict=True)
    ]


def _ratios(schema: pa.Schema) -> Iterator[_Ratio]:
    for column in list(schema)[2:]:
        about = {key.decode(): json.loads(value) for key, value in column.metadata.items()}
        if about["shares"] is not None:
            for label, feature in about["shares"].items():
                if feature:
                    yield _Ratio(feature, column.name, about, label)
        elif about["feature"] is not None:
            pooled = about["per"] is not None
            name = about["feature"] if pooled else f"{about['feature']}_mean"
            yield _Ratio(name, column.name, about, spread=not pooled)


def _tables(parts: Sequence[Path]) -> Iterator[pa.Table]:
    for part in parts:
        try:
            yield pq.read_table(part, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{part}: cannot be read, truncated or damaged? {str(error).splitlines()[0]}") from error


def _unit(ratio: _Ratio) -> str:
    if ratio.label is not None:
        return "%"
    if ratio.about["per"] is None:
        return str(ratio.about["unit"])
    scale = ratio.about["scale"]
    return f"{ratio.about['unit']} per {'' if scale == 1 else f'{scale:,.0f} '}{ratio.about['per'].split('_')[-1]}"
