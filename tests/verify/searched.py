"""What a search has reached, in Python or in compiled code."""

from collections.abc import Iterator

from dpamt.verify.explore.graph import Graph
from dpamt.verify.explore.search import Search


def states_of(search: Search) -> Iterator[tuple[int, ...]]:
    """Every state, in the order of their numbers."""
    graph = search.graph
    if isinstance(graph, Graph):
        return map(search.packing.unpack, graph.numbers)
    return map(graph.state, range(len(graph)))
