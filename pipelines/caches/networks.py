"""A network whose layers a cache may replace for one evaluation, and what its layers cost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pipelines.core.caching import CachedRow
from pipelines.core.errors import MethodFitError
from pipelines.core.prediction import Network

__all__ = ["Work", "find_module", "measured_work", "replaced_forwards", "require_module"]

_WORK = "work"


def find_module(network: Network) -> torch.nn.Module:
    """Find the one network of a model whose layers a cache may replace.

    Raises:
        MethodFitError: there is none.
    """
    module = getattr(network, "network", None)
    if not isinstance(module, torch.nn.Module):
        raise MethodFitError("This model has no network of its own whose layers a cache could leave out.")
    return module


def require_module(network: Network) -> torch.nn.Module:
    """Find the network as `find_module` does, and refuse a compiled one.

    Raises:
        MethodFitError: there is none, or PyTorch compiled it: then its layers cannot be left out one by one.
    """
    module = find_module(network)
    if any(getattr(part, "_compiled_call_impl", None) is not None for part in module.modules()):
        raise MethodFitError(
            "The network is compiled (--compile), and a cache cannot leave parts of a compiled network out. Start the "
            "studio without --compile, or choose no cache."
        )
    return module


@contextlib.contextmanager
def replaced_forwards(forwards: Mapping[torch.nn.Module, Callable[..., object]]) -> Iterator[None]:
    """Give modules other forward functions while the context lasts.

    Args:
        forwards: module to what stands in the place of its forward.
    """
    before: list[tuple[torch.nn.Module, Callable[..., Any] | None]]
    before = [(module, module.__dict__.get("forward")) for module in forwards]
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, original in before:
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = original


class Work:
    """Holds the multiply-adds of a network's layers in one evaluation of one sample: convolutions, linear layers and
    the products of attention."""

    def __init__(self) -> None:
        self._costs: dict[int, float] = {}
        self._shares: dict[tuple[int, ...], float] = {}

    def add(self, module: torch.nn.Module, cost: float) -> None:
        """Count multiply-adds of a layer."""
        self._costs[id(module)] = self._costs.get(id(module), 0.0) + cost

    @property
    def total(self) -> float:
        """Multiply-adds of the whole network."""
        return sum(self._costs.values())

    def share(self, modules: Iterable[torch.nn.Module]) -> float:
        """Find what share of the network's multiply-adds these modules have, with all that they contain, 0 to 1."""
        modules = tuple(modules)
        key = tuple(id(module) for module in modules)
        if key not in self._shares:
            inside = {id(part) for module in modules for part in module.modules()}
            cost, total = sum(self._costs.get(part, 0.0) for part in inside), self.total
            self._shares[key] = cost / total if total else 0.0
        return self._shares[key]


@contextlib.contextmanager
def measured_work(module: torch.nn.Module, rows: Sequence[CachedRow]) -> Iterator[None]:
    """Measure the work of these rows' first evaluation, which must run the whole network; later ones cost nothing."""
    if all(_WORK in row.state for row in rows):
        yield
        return
    work, handles = Work(), []
    try:
        for part in module.modules():
            if count := _find_counter(part):
                handles.append(part.register_forward_hook(_bind(count, work, len(rows)), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
    for row in rows:
        row.pending[_WORK] = work


def work_of(rows: Sequence[CachedRow]) -> Work:
    """Return what was measured in the first evaluation of these rows."""
    work: Work = rows[0].state[_WORK]
    return work


_Counter = Callable[[Any, tuple[Any, ...], Mapping[str, Any], Any], float]


def _bind(count: _Counter, work: Work, rows: int) -> Callable[..., None]:
    def add(
        module: torch.nn.Module, arguments: tuple[object, ...], keywords: Mapping[str, object], output: object
    ) -> None:
        work.add(module, count(module, arguments, keywords, output) / rows)

    return add


def _find_counter(module: torch.nn.Module) -> _Counter | None:
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return _count_convolution
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return _count_linear
    return _count_attention if hasattr(module, "to_q") and hasattr(module, "heads") else None


def _count_convolution(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> float:
    return float(output.numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[-1])


def _count_linear(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> float:
    return float(output.numel() * module.in_features)


def _count_attention(module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> float:
    """Queries times keys and weights times values; of joint attention the tokens of text and picture see each other."""
    hidden = arguments[0] if arguments else keywords["hidden_states"]
    others = keywords.get("encoder_hidden_states")
    queries = keys = hidden[0].numel() // hidden.shape[-1] if hidden.ndim == 3 else hidden[0, 0].numel()
    if others is not None:
        is_joint = getattr(module, "add_k_proj", None) is not None
        keys = others.shape[1] + (queries if is_joint else 0)
        queries = keys if is_joint else queries
    width = getattr(module, "inner_dim", None) or hidden.shape[-1]
    return 2.0 * len(hidden) * queries * keys * width
