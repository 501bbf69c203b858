"""Arithmetic on the hits of words: BM25 over passages, windows and segments.

Letters: W words of the query, N passages. Passages must be ordered so that those of one segment stand
together, in the order they were said.
"""

import numpy as np

K1 = 1.2
B = 0.75

# English words that say nothing about what is asked for.
_STOP_TEXT = """
    a about above after again against all am an and any are aren as at be because been before being below
    between both but by can could couldn d did didn do does doesn doing don down during each few for from
    further had hadn has hasn have haven having he her here hers herself him himself his how i if in into is
    isn it its itself just let ll m me more most my myself no nor not now of off on once only or other our
    ours ourselves out over own re s same she should shouldn so some such t than that the their theirs them
    themselves then there these they this those through to too under until up us ve very was wasn we were
    weren what when where which while who whom why will with won would wouldn you your yours yourself
    yourselves
"""
STOP_WORDS = frozenset(_STOP_TEXT.split())


def idf(hits_WN: np.ndarray) -> np.ndarray:
    """Robertson's inverse document frequency of each word, always positive."""
    total = hits_WN.shape[1]
    df_W = (hits_WN > 0).sum(1)
    return np.log(1 + (total - df_W + 0.5) / (df_W + 0.5))


def bm25(counts_WN: np.ndarray, idf_W: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
    """Okapi BM25 (Robertson and Zaragoza 2009, eq. 3.15) of each of N units; `lengths_N` in words."""
    score_N = np.zeros(len(lengths_N))
    slow_N = K1 * (1 - B + B * lengths_N / max(float(lengths_N.mean()), 1e-9))
    for counts_N, weight in zip(counts_WN, idf_W, strict=True):
        held = np.flatnonzero(counts_N)
        counts_H = counts_N[held]
        score_N[held] += weight * (K1 + 1) * counts_H / (counts_H + slow_N[held])
    return score_N


def window_sum(values_XN: np.ndarray, segment_N: np.ndarray, reach: int) -> np.ndarray:
    """For each passage the sum over itself and `reach` neighbours on either side in its segment."""
    total_XN = values_XN.copy()
    for distance in range(1, min(reach, values_XN.shape[-1] - 1) + 1):
        same_N = segment_N[distance:] == segment_N[:-distance]
        total_XN[..., distance:] += values_XN[..., :-distance] * same_N
        total_XN[..., :-distance] += values_XN[..., distance:] * same_N
    return total_XN


def segment_sum(values_XN: np.ndarray, segment_N: np.ndarray, segments: int) -> np.ndarray:
    """The sum over each segment (numbered from 0), shape (X, segments)."""
    total_XS = np.zeros((len(values_XN), segments))
    for row, values_N in enumerate(values_XN):
        total_XS[row] = np.bincount(segment_N, values_N, minlength=segments)
    return total_XS


def to_unit(scores_N: np.ndarray) -> np.ndarray:
    """Scores divided by their greatest, so that arms of different scale can be added; zeros stay zeros."""
    best = scores_N.max(initial=0.0)
    return scores_N / best if best > 0 else np.zeros_like(scores_N)
