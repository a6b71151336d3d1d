"""The ledger: every cash flow of a batch of hedgers, by line."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any


class Ledger:
    """Cash (n,) and, where asked for, every flow that made it.

    Nothing else changes the cash: cash = opening cash + the sum of all flows. Amounts are float64: sums of many terms
    and differences of large ones.

    >>> import numpy as np
    >>> ledger = Ledger(np.zeros(1), record=True)
    >>> ledger.post(0, "premium", np.array([2.5]))
    >>> ledger.post(0, "spread", np.array([-0.01]))
    >>> ledger.cash
    array([2.49])
    >>> sorted(ledger.flows(n_steps=1))
    ['premium', 'spread']
    """

    def __init__(self, cash: Array, *, record: bool) -> None:
        self.opening: Array = cash
        self.cash: Array = cash
        self.record = record
        self._entries: list[tuple[int, str, Array]] = []

    def post(self, step: int, line: str, amount: Array) -> None:
        """Adds an amount (n,) to the cash at a step."""
        self.cash = self.cash + amount
        if self.record:
            self._entries.append((step, line, amount))

    def flows(self, n_steps: int) -> dict[str, Array]:
        """Cash flows by line, each (n_steps + 1, n), of the events at each step."""
        xp = array_namespace(self.cash)
        rows: dict[str, list[Array]] = {}
        for step, line, amount in self._entries:
            if line not in rows:
                rows[line] = [xp.zeros_like(self.cash) for _ in range(n_steps + 1)]
            rows[line][step] = rows[line][step] + amount
        return {line: xp.stack(values) for line, values in rows.items()}
