"""Do free generations say what a small model was trained on? Models of known mixes, their text against their corpora's.

python experiments/generation_validity/run.py [--tokens 1000000] [--count 300] [--mixes nl100_code0 ...]

What a killed run has finished is not done again.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from njsl.core.types import DataError
from njsl.corpora.tokenizer import Tokenizer
from njsl.tag.validity import Pair, validity
from njsl.train.corpus import TokenCorpus

ROOT = Path(__file__).resolve().parents[2]
MIXES = sorted(path.stem for path in (ROOT / "conf" / "data_mix").glob("nl*_code*.yaml"))
TAGGERS = ("lengths", "keywords", "language", "ngram_entropy")
WHOLE, HEADS = "whole", "heads"
SEED = 0


def verb(name: str, *overrides: str) -> None:
    """Run ``<name>.py`` with its output on the console; it goes on where a killed run was."""
    print(f"\n$ python {name}.py {' '.join(overrides)}", flush=True)
    subprocess.run([sys.executable, f"{name}.py", *overrides], cwd=ROOT, check=True)


def train(mix: str, tokens: int, output: Path) -> Path:
    """The checkpoint of a model that was trained on a mix."""
    run = output / "train" / mix
    if not (run / "hf").is_dir():
        stages = "stages=[prepare,train,export]"
        verb(
            "train",
            f"data_mix={mix}",
            f"tokens={tokens}",
            stages,
            f"paths.cache={output / 'cache'}",
            f"hydra.run.dir={run}",
        )
    return run / "hf"


def write_corpora(mixes: list[str], tokens: int, longest: int, output: Path) -> Path:
    """Samples of the very documents the models were trained on, with a mix' shares of tokens.

    Args:
        mixes: names of data mixes.
        tokens: per sample.
        longest: ``heads`` are cut after so many tokens, as generations are.
        output: holds the cache of ``train.py``.

    Returns:
        A folder with a corpus ``<mix>.whole`` and a corpus ``<mix>.heads`` of each mix.
    """
    folder = output / "corpora"
    tokenizer = Tokenizer.load(output / "train" / mixes[0] / "hf")
    for mix in mixes:
        weights = yaml.safe_load((ROOT / "conf" / "data_mix" / f"{mix}.yaml").read_text())["weights"]
        records: dict[str, list[str]] = {WHOLE: [], HEADS: []}
        for name, weight in weights.items():
            (trained,) = (output / "cache" / "corpora").glob(f"*/{name}/train")
            corpus = TokenCorpus(trained, tokenizer_sha256=tokenizer.sha256, verify=False)
            left = weight * tokens
            for number in np.random.default_rng(SEED).permutation(corpus.documents):
                if left <= 0:
                    break
                ids = corpus.document(int(number))[:-1][: int(left) + 1]
                left -= len(ids)
                for kind, part in ((WHOLE, ids), (HEADS, ids[:longest])):
                    record = {"id": f"{name}/{number}", "text": tokenizer.decode(part)}
                    records[kind].append(json.dumps(record, ensure_ascii=False) + "\n")
        for kind, lines in records.items():
            target = folder / f"{mix}.{kind}"
            target.mkdir(parents=True, exist_ok=True)
            (target / "sample.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def features(run: Path) -> dict[str, pd.DataFrame]:
    """By corpus the features of a run of ``tag.py``; a corpus below the token budget of its entropy is named."""
    facts = json.loads((run / "corpora.json").read_text(encoding="utf-8"))["corpora"]
    for corpus, about in facts.items():
        if not about["figures"].get("entropy_budget_reached", {"value": 1})["value"]:
            print(f"{corpus}: too few tokens for the entropy's budget; its entropy does not compare")
    long = pd.read_csv(run / "features_long.csv")
    return {str(corpus): part for corpus, part in long.groupby("corpus", sort=False)}


def with_domains(known: dict[str, pd.DataFrame], text: Path, classifier: Path, run: Path) -> dict[str, pd.DataFrame]:
    """The features of corpora with the shares of their domains by a local classifier."""
    chosen = ["tagger=[domain]", f"tagger.domain.classifier={classifier.resolve()}"]
    verb("tag", "corpora=jsonl", f"corpora.path={text}", *chosen, f"hydra.run.dir={run}")
    domains = features(run)
    return {name: pd.concat([part, domains[name]]) for name, part in known.items()}


def show(table: pd.DataFrame) -> None:
    """Print the table, each figure with its interval."""
    print(f"{'feature':36} {'pairs':>5} {'Spearman':>20} {'Pearson':>20} {'bias':>26} {'bias [std]':>20}")
    for _, row in table.iterrows():
        cells = [
            f"{row[name]:.{digits}f} [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"
            for name, digits in (("spearman", 2), ("pearson", 2), ("bias", 2), ("bias_std", 2))
        ]
        shown = f"{row['feature']:36} {row['pairs']:5} {cells[0]:>20} {cells[1]:>20} {cells[2]:>26} {cells[3]:>20}"
        print(f"{shown}  {row['reason']}".rstrip())


def main() -> None:
    """Train, generate, tag, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of training, per model")
    parser.add_argument("--count", type=int, default=300, help="generations per model")
    parser.add_argument("--length", type=int, default=255, help="of a generation at most [tokens]")
    parser.add_argument("--corpus-tokens", type=int, default=400_000, help="of each mix' sample")
    parser.add_argument("--entropy-tokens", type=int, default=25_000, help="budget of the n-gram entropy")
    parser.add_argument("--filter", action="store_true", help="leave out short and repetitive texts on both sides")
    parser.add_argument("--domain", type=Path, help="a classifier of tag.py mode=distil: compare domains too")
    parser.add_argument("--mixes", nargs="+", default=MIXES, choices=MIXES)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "generation_validity")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    checkpoints = {mix: train(mix, arguments.tokens, output) for mix in arguments.mixes}
    chosen = [f"tagger=[{','.join(TAGGERS)}]", f"tagger.ngram_entropy.budget_tokens={arguments.entropy_tokens}"]
    # What is shorter than the filter's own limit is no fault of a text of 255 tokens.
    chosen += ["filter=[repetition]", "filter.repetition.min_chars=50"] if arguments.filter else []
    tagged = output / ("tag_filtered" if arguments.filter else "tag")
    for mix, checkpoint in checkpoints.items():
        written = [f"generator.checkpoint={checkpoint}", f"generator.count={arguments.count}"]
        written += [f"generator.max_new_tokens={arguments.length}", f"seed={SEED}"]
        verb("tag", "mode=generate", *written, *chosen, f"hydra.run.dir={tagged / mix}")
    corpora = write_corpora(arguments.mixes, arguments.corpus_tokens, arguments.length, output)
    verb("tag", "corpora=jsonl", f"corpora.path={corpora}", *chosen, f"hydra.run.dir={tagged / 'corpora'}")
    actual = features(tagged / "corpora")
    generated = {mix: features(tagged / mix)[mix] for mix in arguments.mixes}
    if arguments.domain:
        actual = with_domains(actual, corpora, arguments.domain, tagged / "corpora_domain")
        for mix in arguments.mixes:
            text = tagged / mix / "generations" / mix
            generated |= with_domains({mix: generated[mix]}, text, arguments.domain, tagged / f"{mix}_domain")
    for kind, what in ((HEADS, f"the first {arguments.length} tokens of documents"), (WHOLE, "whole documents")):
        print(f"\n{len(arguments.mixes)} models, {arguments.count} generations each, against {what} of their mixes")
        table = validity([Pair(mix, mix, generated[mix], actual[f"{mix}.{kind}"]) for mix in arguments.mixes])
        table.to_csv(tagged / f"validity_{kind}.csv", index=False)
        show(table)


if __name__ == "__main__":
    try:
        main()
    except (DataError, subprocess.CalledProcessError) as error:
        sys.exit(f"generation_validity: {error}")
