"""How many operations a call sends to a GPU: what limits small ones. Owns nothing but the count."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    """Counts torch's operations but for views, which the CPU makes by itself."""

    count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += not operation.is_view
        return operation(*args, **(kwargs or {}))


def launches(call: Callable[[], object]) -> int:
    """Operations of one call."""
    with _Counter() as counter:
        call()
    return counter.count
