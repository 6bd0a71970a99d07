"""How a command says that it cannot: one sentence on standard error and an exit status."""

from __future__ import annotations


class CommandFailed(Exception):
    """The command ends here. `main.run` prints the sentence and exits with `status`."""

    def __init__(self, sentence: str, status: int = 1) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status
