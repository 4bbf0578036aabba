"""A small flow between two sides: units pushed from sources into sinks that they may use, rerouted where needed."""

from collections.abc import Mapping, Sequence


class Flow:
    """Units routed from sources to sinks by augmenting paths (Ford and Fulkerson 1956).

    An augmenting path never takes back what a source has sent or a sink has received: both only grow, and what is
    pushed first has the first claim. Source s may use the sinks ``reach[s]``; sink t still takes ``spare[t]`` units;
    ``held[t]`` says whose units it has; ``full`` are the sinks that a source with units left over reaches, rerouting
    others: none of them will ever have room again.
    """

    def __init__(self, reach: Mapping[int, Sequence[int]], spare: Sequence[int]) -> None:
        self.reach = reach
        self.spare = list(spare)
        self.held: list[dict[int, int]] = [{} for _ in spare]
        self.full: set[int] = set()

    def copy(self) -> "Flow":
        """Return a copy to try something on."""
        other = Flow(self.reach, self.spare)
        other.held = [dict(held) for held in self.held]
        return other

    def place(self, source: int, sink: int, units: int) -> None:
        """Send units straight to a sink that has room for them."""
        self.spare[sink] -= units
        held = self.held[sink]
        held[source] = held.get(source, 0) + units

    def push(self, source: int, units: int) -> int:
        """Send up to ``units`` more from a source; return how many found room."""
        left = units
        if self.full.issuperset(self.reach[source]):
            return 0
        for sink in self.reach[source]:
            if left and self.spare[sink]:
                take = min(left, self.spare[sink])
                self.place(source, sink, take)
                left -= take
        while left and (path := self._path(source)):
            left -= self._augment(path, left)
        return units - left

    def roomy(self) -> set[int]:
        """Return every sink that has room, or could make some by rerouting."""
        found = {sink for sink, spare in enumerate(self.spare) if spare}
        grown = True
        while grown:
            more = {
                sink
                for sink, held in enumerate(self.held)
                if sink not in found and any(not found.isdisjoint(self.reach[source]) for source in held)
            }
            found |= more
            grown = bool(more)
        return found

    def _path(self, source: int) -> list[tuple[int, int]]:
        """Return the shortest augmenting path as (source, sink) steps, the last sink having room; [] if none."""
        met_from: dict[int, int] = {}  # sink → the source that reaches it
        via: dict[int, int] = {}  # source → the sink that holds its units and would give them up
        queue = [source]
        for at in queue:
            for sink in self.reach[at]:
                if sink in met_from or sink in self.full:
                    continue
                met_from[sink] = at
                if self.spare[sink]:
                    path = [(at, sink)]
                    while at != source:
                        sink = via[at]
                        at = met_from[sink]
                        path.append((at, sink))
                    return path[::-1]
                for other in self.held[sink]:
                    if other != source and other not in via:
                        via[other] = sink
                        queue.append(other)
        self.full.update(met_from)
        return []

    def _augment(self, path: list[tuple[int, int]], units: int) -> int:
        last = path[-1][1]
        moves = [(path[i + 1][0], path[i][1]) for i in range(len(path) - 1)]
        take = min(units, self.spare[last], *(self.held[sink][source] for source, sink in moves))
        for source, sink in moves:
            self.held[sink][source] -= take
            if not self.held[sink][source]:
                del self.held[sink][source]
        for source, sink in path:
            self.held[sink][source] = self.held[sink].get(source, 0) + take
        self.spare[last] -= take
        return take
