"""What came of the mixes that were predicted: from the run's stores the tables of ``report.md`` and a figure.

python experiments/mixture_validation/report.py DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from njsl.predict import ledger
from njsl.predict.law import agreement
from njsl.store import AnalysisStore
from njsl.store.tasks import task_table

# Below the experiment's folder: the choice, its ledger, what was trained at the proxies' size, how it scored, and what
# was trained at the larger size.
CHOICE, LEDGER, PLANS, SCORE, TARGETS = "choice", "plans.jsonl", "plans.duckdb", "score", "target.duckdb"
TARGET = "target"  # folder of the larger runs, and owner of their ids: target/<mix>-s<seed>
BEST = "best"


def report(output: Path) -> str:
    """The whole report as Markdown, which is also written to ``report.md``.

    Args:
        output: the experiment's folder.
    """
    mixes = pd.read_csv(output / CHOICE / "mixes.csv").set_index("mix")
    laws = pd.read_csv(output / CHOICE / "laws.csv")
    lines = [line for line in ledger.read(output / LEDGER) if line["kind"] == "plan"]
    weights = lines[0]["objective"]["weights"]
    larger = objective_of(output / TARGETS, weights)
    larger[["mix", "seed"]] = larger.index.str.extract(rf"{TARGET}/(.+)-s(\d+)$").to_numpy()
    again = objective_of(output / PLANS, weights)["objective"].reindex(mixes["plan"]).set_axis(mixes.index)
    sign = -1 if task_table()[next(iter(weights))].higher_is_better else 1
    table, facts = compared(mixes, again, larger, sign)
    parts = [
        f"Objective: {' + '.join(f'{weight:g} {task}' for task, weight in weights.items())}",
        "**Mixes the law has not seen, at the proxies' size**",
        markdown(unseen(laws)),
        "**Predicted from proxies, measured at both sizes**",
        markdown(table),
        said(facts),
        before(output, lines),
    ]
    scored = output / SCORE / "calibration.csv"
    if scored.is_file():
        parts += ["**Models trained after the ledger, at the proxies' size**", markdown(pd.read_csv(scored))]
    text = "\n\n".join(parts) + "\n"
    (output / "report.md").write_text(text, encoding="utf-8")
    figure(mixes, larger, sign).savefig(output / "mixes.png", dpi=110)
    return text


def objective_of(path: Path, weights: dict[str, float]) -> pd.DataFrame:
    """The objective of every model of a store that has all its tasks, by id."""
    with AnalysisStore.open(str(path)) as store:
        rows = store.frame(tasks=list(weights)).set_index("id")[list(weights)].dropna()
    return pd.DataFrame({"objective": rows.to_numpy() @ np.array(list(weights.values()))}, index=rows.index)


def unseen(laws: pd.DataFrame) -> pd.DataFrame:
    """Every law on the objective, and the chosen one on every task."""
    shown = laws[(laws["target"] == "objective") | laws["chosen"]].sort_values(
        ["scored", "target"], ascending=[False, True], kind="stable"
    )
    low, high = shown["rank_correlation_low"], shown["rank_correlation_high"]
    return pd.DataFrame(
        {
            "mixes": shown["scored"].str.replace("_", " "),
            "n": shown["n_mixes"],
            "law": shown["law"] + np.where(shown["chosen"], " (chosen)", ""),
            "of": shown["target"],
            "MAE": shown["mae"].map("{:.4f}".format),
            "rank correlation [95 %]": [
                f"{value:.3f} [{a:.2f}, {b:.2f}]"
                for value, a, b in zip(shown["rank_correlation"], low, high, strict=True)
            ],
            "pairs right": shown["pairs_right"].map("{:.0%}".format),
        }
    )


def compared(
    mixes: pd.DataFrame, again: pd.Series, larger: pd.DataFrame, sign: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A row per mix, in the predicted order, and what the larger runs say of the prediction.

    Args:
        mixes: predictions by mix: ``objective`` and ``objective_low_80``, ``objective_high_80``.
        again: objective by mix of a new model of the proxies' size.
        larger: ``mix``, ``seed`` and ``objective`` of the larger runs.
        sign: 1 where a lower objective is better, else -1.
    """
    runs = sign * larger.pivot(index="mix", columns="seed", values="objective").loc[mixes.index]
    if runs.isna().any(axis=None):
        raise SystemExit(f"not every mix was trained with every seed:\n{runs}")
    loss, expected, seeds = runs.mean(axis=1), sign * mixes["objective"], runs.shape[1]
    # All mixes share their seeds: what a seed does to all of them is in no difference between two.
    rest = runs.sub(loss, axis=0).sub(runs.mean() - loss.mean(), axis=1)
    freedom = (len(runs) - 1) * (seeds - 1)
    noise = float(np.sqrt(np.square(rest.to_numpy()).sum() / freedom))
    reference = loss.drop(BEST).idxmin()
    error = noise * np.sqrt(2 / seeds)
    gap = float(loss[BEST] - loss[reference])
    first, second = np.triu_indices(len(loss), 1)
    apart = loss.to_numpy()[first] - loss.to_numpy()[second]
    clear = np.abs(apart) > 2 * error
    right = apart * (expected.to_numpy()[first] - expected.to_numpy()[second]) > 0
    facts = agreement(expected.to_numpy(), loss.to_numpy()) | {
        "noise": noise,
        "freedom": freedom,
        "over_seeds": float(np.sqrt(runs.var(axis=1).mean())),
        "reference": reference,
        "gap": gap,
        "half": float(stats.t.ppf(0.975, freedom) * error),
        "clear": int(clear.sum()),
        "clear_right": int((right & clear).sum()),
        "pairs": len(apart),
        "seeds": seeds,
    }
    order = expected.sort_values().index
    table = pd.DataFrame(
        {
            "mix": order,
            "shares": [
                " / ".join(f"{mixes.at[mix, name]:.3f}" for name in mixes if name.startswith("share_")) for mix in order
            ],
            "predicted [80 %]": [
                "{:.4f} [{:.4f}, {:.4f}]".format(
                    *mixes.loc[mix, [f"objective{end}" for end in ("", "_low_80", "_high_80")]]
                )
                for mix in order
            ],
            "measured, proxies' size": again[order].map("{:.4f}".format).to_numpy(),
            "measured, larger": [f"{sign * loss[mix]:.4f} ± {runs.loc[mix].std():.4f}" for mix in order],
            "n": seeds,
            "rank predicted": expected.rank()[order].astype(int).to_numpy(),
            "rank measured": loss.rank()[order].astype(int).to_numpy(),
        }
    )
    return table, facts


def said(facts: dict[str, Any]) -> str:
    """The findings at the larger size, in words."""
    verdict = (
        "the chosen mix is better than every reference"
        if facts["gap"] < 0
        else "within the noise floor of the best reference"
        if facts["gap"] <= facts["half"]
        else "worse than the best reference by more than the noise floor"
    )
    band = f"[{facts['rank_correlation_low']:.2f}, {facts['rank_correlation_high']:.2f}]"
    return " ".join(
        [
            f"At the larger size, over {facts['n_mixes']} mixes of {facts['seeds']} seeds each: rank correlation of",
            f"predicted and measured order {facts['rank_correlation']:.2f} (95 %, bootstrap over mixes: {band});",
            f"{facts['pairs_right']:.0%} of {facts['pairs']} pairs are ordered right, {facts['clear_right']} of the",
            f"{facts['clear']} whose gap exceeds two standard errors. Standard deviation over seeds, pooled:",
            f"{facts['over_seeds']:.4f}, of which {facts['noise']:.4f} ({facts['freedom']} degrees of freedom) is left",
            "in differences between mixes, as all share their seeds. Chosen minus best reference",
            f"({facts['reference']}), lower is better: {facts['gap']:+.4f} ± {facts['half']:.4f} (95 %, t): {verdict}.",
        ]
    )


def before(output: Path, lines: list[dict[str, Any]]) -> str:
    """That every prediction was in the ledger before the first training of its mix began, in words."""
    dates = [line["date"] for line in lines]
    records = sorted([*output.glob(f"{TARGET}/*/run.json"), *output.glob("plans/*/run.json")])
    starts = [json.loads(path.read_text(encoding="utf-8"))["start"] for path in records]
    if not starts:
        return f"Ledger: {len(lines)} predictions until {max(dates)}; no record of a training beside it."
    order = "before" if max(dates) < min(starts) else "NOT before"
    return f"Ledger: {len(lines)} predictions, the last at {max(dates)}, {order} the first training at {min(starts)}."


def figure(mixes: pd.DataFrame, larger: pd.DataFrame, sign: int) -> Any:
    """Predicted objective at the proxies' size against that measured at the larger one, every seed a point."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = picture.subplots()
    for mix, row in mixes.iterrows():
        values = larger.loc[larger["mix"] == mix, "objective"]
        axes.plot([row["objective"]] * len(values), values, "o", ms=4, color="#4477aa")
        axes.hlines(values.mean(), row["objective_low_80"], row["objective_high_80"], color="#99bbdd", lw=2, zorder=0)
        axes.annotate(
            str(mix), (row["objective"], values.mean()), fontsize=8, textcoords="offset points", xytext=(5, 4)
        )
    axes.set_xlabel(
        f"predicted at the proxies' size, 80 % interval ({'lower' if sign > 0 else 'higher'} is better)", fontsize=8
    )
    axes.set_ylabel("measured at the larger size, a point per seed", fontsize=8)
    axes.tick_params(labelsize=8)
    return picture


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join(
        "| " + " | ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row) + " |" for row in rows
    )


if __name__ == "__main__":
    print(report(Path(sys.argv[1])))
