"""Where the paper's published data lie, and that they are the published bytes.

Source: arXiv 2503.03862 and its public repository, nightingal3/llm-pretraining-behaviours, at the commit below. The
repository has no licence file, so nothing of it ships with njsl: a user's machine fetches it from the source.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from njsl.core.types import StoreError

COMMIT = "5404713b2a8d4ef6aadbe75e9b8e597cfd9121be"
REPOSITORY = "https://raw.githubusercontent.com/nightingal3/llm-pretraining-behaviours"
EXPORT = "metadata/duckdb/2025_03_03.duckdb"
FREEGEN = "performance_prediction/all_models_feature_stats_3_03_with_ratios.csv"
SELECTED = "performance_prediction/selected_feats/forward_generation_results_303.csv"
SHA256 = {
    f"{EXPORT}/schema.sql": "11b508ba3899bf89905b5b59a397fadf48711a11bb380a4ef2d8822233240ca4",
    f"{EXPORT}/load.sql": "88417a9fa284666a78c2aca620069091d63870f66e294491f63f209d035f51eb",
    f"{EXPORT}/model_annotations.csv": "3bd6a49d6b677ef3ab16a9a4758075e1c0da517abd25d51937e1a27a4232acc9",
    f"{EXPORT}/dataset_info.csv": "8f7f6106e43c8f5c36a4078f84ce83d70e3cee5aa598d2c9a7f68eacdb0267a8",
    f"{EXPORT}/evaluation_results.csv": "7012e7eed6505d174e37e54ea56b11674cca2f83f012de7d1bf96c35c29de7a1",
    FREEGEN: "f47f8d0086e2e6f9f260c4daae11e6b0575b509f9c394b5984c5ad03701ebd8b",
    SELECTED: "14a6f45a6cc1bf96df2a213ca7d02390cc8ce870ab8e8b69c71bec8412c44aea",
}
# (export folder, free-generation features, selected features) in: a clone of the repository; a plain folder.
LAYOUTS = (
    (EXPORT, FREEGEN, SELECTED),
    ("njsl_2025_03_03", "freegen_features_2025_03_03.csv", "selected_features_2025_03_03.csv"),
)
VARIABLE = "NJSL_PAPER_DATA"
TIMEOUT_SEC = 30


@dataclass(frozen=True)
class PaperFiles:
    """The verified files; ``freegen`` and ``selected`` are None where only the export folder is at hand."""

    export: Path
    freegen: Path | None
    selected: Path | None
    way: str


def locate(path: str | None) -> PaperFiles:
    """Find the data: ``store.path``, then the environment, then the user's cache, then a download into that cache.

    A way that is named but does not hold the data is an error, never skipped.

    Raises:
        StoreError: nothing found, a file is missing, or one is not the published file.
    """
    if path is not None:
        return _verified(Path(path).expanduser(), "store.path")
    if os.environ.get(VARIABLE):
        return _verified(Path(os.environ[VARIABLE]).expanduser(), f"${VARIABLE}")
    import platformdirs

    cache = platformdirs.user_cache_path("njsl") / f"paper-{COMMIT[:7]}"
    if all((cache / name).is_file() for name in SHA256):
        return _verified(cache, "the user's cache")
    _download(cache)
    return _verified(cache, "downloaded from the paper's repository")


def _verified(folder: Path, way: str) -> PaperFiles:
    if not folder.is_dir():
        raise StoreError(f"{folder} ({way}): no such folder; {_ways()}")
    for export, freegen, selected in LAYOUTS:
        if (folder / export).is_dir():
            files = PaperFiles(folder / export, folder / freegen, folder / selected, way)
            break
    else:
        files = PaperFiles(folder, None, None, f"{way}, the export folder alone")
    checked = {files.export / Path(name).name: SHA256[name] for name in SHA256 if name.startswith(EXPORT)}
    if files.freegen is not None and files.selected is not None:
        checked |= {files.freegen: SHA256[FREEGEN], files.selected: SHA256[SELECTED]}
    for file, expected in checked.items():
        if not file.is_file():
            raise StoreError(f"{file} ({way}): missing; {_ways()}")
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != expected:
            raise StoreError(
                f"{file} ({way}): SHA-256 {found[:12]}… is not the published file's {expected[:12]}…; "
                "fetch it again (from the cache: delete it), or open it unchecked with store=folder"
            )
    return files


def _download(cache: Path) -> None:
    for name, expected in SHA256.items():
        url = f"{REPOSITORY}/{COMMIT}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SEC) as response:
                body = response.read()
        except (OSError, http.client.HTTPException) as error:  # unreachable, refused, or broken off half-way
            raise StoreError(
                f"the paper's data are not at hand and {url} cannot be read ({error}); {_ways()}"
            ) from error
        if hashlib.sha256(body).hexdigest() != expected:
            raise StoreError(f"{url}: not the published file (its SHA-256 differs); {_ways()}")
        target = cache / name
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        beside.write_bytes(body)
        beside.replace(target)


def _ways() -> str:
    return (
        f"accepted: store.path=DIR or ${VARIABLE}=DIR, where DIR is a clone of the paper's repository or an export "
        "folder, or a network to download it"
    )
