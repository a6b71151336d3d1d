"""Evaluation: measures of a hedge, where its P&L came from, and how policies differ on the same episodes."""

from __future__ import annotations

from hedgerl.evaluation.attribution import attribute
from hedgerl.evaluation.bootstrap import paired_differences
from hedgerl.evaluation.comparison import Comparison, Study, cut_regimes, within
from hedgerl.evaluation.luck import LuckAndSkill, luck_and_skill
from hedgerl.evaluation.metrics import METRICS, Metric, measure
from hedgerl.evaluation.result import POSITION_TERMS, TERMS, Result
from hedgerl.evaluation.rollouts import compare, evaluate, roll_out

__all__ = [
    "METRICS",
    "POSITION_TERMS",
    "TERMS",
    "Comparison",
    "LuckAndSkill",
    "Metric",
    "Result",
    "Study",
    "attribute",
    "compare",
    "cut_regimes",
    "evaluate",
    "luck_and_skill",
    "measure",
    "paired_differences",
    "roll_out",
    "within",
]
