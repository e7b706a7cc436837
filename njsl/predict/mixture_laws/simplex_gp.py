"""A Gaussian process over mixes, with a length of its own for every corpus."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from njsl.predict.law import Law

# Priors of the logarithms of the hyperparameters: mean and standard deviation, in standard deviations of the losses;
# lengths in units of the square root of a share.
PLANE = (0.0, 1.0)
CURVE = (np.log(0.5), 1.0)
LENGTH = (np.log(0.7), 0.7)
NOISE = (np.log(0.1), 1.0)
STARTS = (np.log(0.03), np.log(0.3))  # of the noise: a wiggly function or a noisy one
BOUND = 4.0  # of the hyperparameters, in standard deviations of their priors
JITTER = 1e-10  # of a draw's covariance


class SimplexGP(Law):
    """A plane plus a smooth function of the square roots of the shares, and normal noise; all sizes are learnt.

    Square roots, since a loss changes most where a corpus' share is small: the first tenth of a corpus says more than
    the last. Hyperparameters maximise their posterior density, with analytic gradients.

    Attributes:
        logs_: ln of the sizes of plane and curve, of the lengths [corpora] and of the noise.
    """

    def fit_runs(self, shares: np.ndarray, loss: np.ndarray) -> Self:
        """Fit hyperparameters from two starts, keep the better one, and solve."""
        self.middle_, self.unit_ = float(loss.mean()), float(loss.std()) or 1.0
        self.roots_ = np.sqrt(shares)
        target = (loss - self.middle_) / self.unit_
        prior = np.array([PLANE, CURVE, *[LENGTH] * shares.shape[1], NOISE])
        bounds = np.column_stack([prior[:, 0] - BOUND * prior[:, 1], prior[:, 0] + BOUND * prior[:, 1]])
        fits = []
        for noise in STARTS:
            start = np.array([*prior[:-1, 0], noise])
            fits.append(minimize(self._posterior, start, (target, prior), "L-BFGS-B", jac=True, bounds=bounds))
        self.logs_ = min(fits, key=lambda fit: float(fit.fun)).x
        covariance = self._kernel(self.roots_)[0] + np.exp(2 * self.logs_[-1]) * np.eye(len(target))
        self.factor_ = cho_factor(covariance, lower=True)
        self.solved_ = cho_solve(self.factor_, target)
        return self

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Posterior mean [mixes]."""
        across = self._kernel(np.sqrt(shares))[0]
        result: np.ndarray = self.middle_ + self.unit_ * (across @ self.solved_)
        return result

    def draws(self, shares: np.ndarray, times: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Functions from the posterior [draws, mixes], without noise; nothing is fitted again."""
        roots = np.sqrt(shares)
        across = self._kernel(roots)[0]
        reach = solve_triangular(self.factor_[0], across.T, lower=True)
        covariance = self._kernel(roots, roots)[0] - reach.T @ reach
        values, vectors = np.linalg.eigh(covariance + JITTER * np.eye(len(shares)))
        normal = random.standard_normal((len(times), len(shares)))
        apart = (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        result: np.ndarray = self.predict(shares) + self.unit_ * apart
        return result

    def _kernel(
        self, roots: np.ndarray, others: np.ndarray | None = None, logs: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Covariance [mixes, others], its plane, its curve, and squared distances by corpus [corpora, mixes, others].

        Args:
            roots: square roots of shares [mixes, corpora].
            others: the like; None: the fitted runs.
            logs: hyperparameters; None: the fitted ones.
        """
        others = self.roots_ if others is None else others
        logs = self.logs_ if logs is None else logs
        squares = np.square((roots[:, None, :] - others[None, :, :]) / np.exp(logs[2:-1])).transpose(2, 0, 1)
        plane = np.exp(2 * logs[0]) * (1 + roots @ others.T)
        curve = np.exp(2 * logs[1] - squares.sum(axis=0) / 2)
        return plane + curve, plane, curve, squares

    def _posterior(self, logs: np.ndarray, target: np.ndarray, prior: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log posterior density of the hyperparameters, up to a constant, and its gradient."""
        covariance, plane, curve, squares = self._kernel(self.roots_, logs=logs)
        noise = np.exp(2 * logs[-1])
        factor = cho_factor(covariance + noise * np.eye(len(target)), lower=True)
        solved = cho_solve(factor, target)
        away = (logs - prior[:, 0]) / prior[:, 1]
        value = target @ solved / 2 + np.log(np.diag(factor[0])).sum() + away @ away / 2
        pull = cho_solve(factor, np.eye(len(target))) - np.outer(solved, solved)
        by_length = [np.vdot(pull, curve * square) / 2 for square in squares]
        gradient = np.array([np.vdot(pull, plane), np.vdot(pull, curve), *by_length, noise * np.trace(pull)])
        return float(value), gradient + away / prior[:, 1]
