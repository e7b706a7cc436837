"""The scaling law of Kaplan et al."""

from __future__ import annotations

import numpy as np

from njsl.predict.scaling_law import DRAWS, LN_EXPONENT, LN_TERM, MOST_LN_LOSS, ScalingLaw


class Kaplan(ScalingLaw):
    """L(N, D) = ((Nc / N)^(alphaN / alphaD) + Dc / D)^alphaD, linked to a score as ``ScalingLaw`` says.

    N in parameters, D in billions of tokens; so is Nc, so is Dc.

    Source: arXiv 2001.08361, equation 1.5.
    """

    coefficients = ("Nc", "Dc")
    exponents = ("alphaN", "alphaD")

    def start(self, random: np.random.Generator, ln_N: float, ln_D: float) -> np.ndarray:
        """See ``ScalingLaw``: (Nc / N)^alphaN and (Dc / D)^alphaD are drawn at the average model."""
        alpha_N, alpha_D = random.uniform(*LN_EXPONENT, (2, DRAWS))
        term_N, term_D = random.uniform(*LN_TERM, (2, DRAWS))
        return np.array([ln_N + term_N / np.exp(alpha_N), ln_D + term_D / np.exp(alpha_D), alpha_N, alpha_D])

    def loss(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> np.ndarray:
        """See ``ScalingLaw``."""
        Nc, Dc, alpha_N, alpha_D = logs
        ln_sum = np.logaddexp(np.exp(alpha_N - alpha_D) * (Nc - ln_N), Dc - ln_D)
        return np.exp(np.minimum(np.exp(alpha_D) * ln_sum, MOST_LN_LOSS))

    def slopes(self, logs: np.ndarray, ln_N: np.ndarray, ln_D: np.ndarray) -> np.ndarray:
        """See ``ScalingLaw``."""
        Nc, Dc, alpha_N, alpha_D = logs
        ratio = np.exp(alpha_N - alpha_D)
        ln_term_N, ln_term_D = ratio * (Nc - ln_N), Dc - ln_D
        ln_sum = np.logaddexp(ln_term_N, ln_term_D)
        share_N = np.exp(ln_term_N - ln_sum)
        by_log = [share_N * ratio, 1 - share_N, share_N * ln_term_N, ln_sum - share_N * ln_term_N]
        return (self.loss(logs, ln_N, ln_D) * np.exp(alpha_D) * np.array(by_log)).T
