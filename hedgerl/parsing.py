"""The command lines that are not Hydra's: a mistake is a ValueError, which `hedgerl` tells in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors name the command and raise ValueError instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.prog.removeprefix('hedgerl ')}: {message}")
