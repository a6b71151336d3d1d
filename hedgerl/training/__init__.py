"""The parts of a training run: learners, checkpoints, fixed paths to judge on, and what is shown meanwhile."""

from __future__ import annotations
