"""The database of models: open it, check it, and read views of it.

``from njsl.store import AnalysisStore`` opens an export folder read-only; ``open_store`` follows a ``store`` config.
"""

from njsl.store.store import AnalysisStore, open_store

__all__ = ["AnalysisStore", "open_store"]
