"""The scaling law of Hoffmann et al."""

from __future__ import annotations

import numpy as np

from njsl.predict.scaling_law import DRAWS, LN_EXPONENT, LN_TERM, MOST_LN_LOSS, ScalingLaw


class Chinchilla(ScalingLaw):
    """L(N, D) = E + A / N^alpha + B / D^beta, linked to a score as ``ScalingLaw`` says.

    N in parameters, D in billions of tokens. E is what no amount of either mends.

    Source: arXiv 2203.15556, equation 2.
    """

    coefficients = ("E", "A", "B")
    exponents = ("alpha", "beta")

    def start(self, random: np.random.Generator, ln_N: float, ln_D: float) -> np.ndarray:
        """See ``ScalingLaw``: the three terms are drawn at the average model."""
        alpha, beta = random.uniform(*LN_EXPONENT, (2, DRAWS))
        term_E, term_N, term_D = random.uniform(*LN_TERM, (3, DRAWS))
        return np.array([term_E, term_N + np.exp(alpha) * ln_N, term_D + np.exp(beta) * ln_D, alpha, beta])

    def terms(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """E, A / N^alpha and B / D^beta."""
        E, A, B, alpha, beta = logs
        ln_terms = E, A - np.exp(alpha) * ln_N, B - np.exp(beta) * ln_D
        term_E, term_N, term_D = (np.exp(np.minimum(ln_term, MOST_LN_LOSS)) for ln_term in ln_terms)
        return term_E, term_N, term_D

    def loss(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> np.ndarray:
        """See ``ScalingLaw``."""
        term_E, term_N, term_D = self.terms(logs, ln_N, ln_D)
        return term_E + term_N + term_D

    def slopes(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> np.ndarray:
        """See ``ScalingLaw``."""
        _, _, _, alpha, beta = logs
        term_E, term_N, term_D = self.terms(logs, ln_N, ln_D)
        by_exponents = -np.exp(alpha) * ln_N * term_N, -np.exp(beta) * ln_D * term_D
        return np.column_stack([np.full_like(term_N, term_E), term_N, term_D, *by_exponents])
