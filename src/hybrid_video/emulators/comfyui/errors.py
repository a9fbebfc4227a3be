"""What a node of the simulated server raises."""

from __future__ import annotations


class NodeError(Exception):
    """A node failed while running.

    Args:
        kind: the exception type the server reports, for example `ValueError` or `torch.OutOfMemoryError`.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
