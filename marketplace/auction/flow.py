"""A small flow between two sides: units pushed from sources into sinks that they may use, rerouted where needed."""

from collections.abc import Callable, Mapping, Sequence


class Flow:
    """Units routed from sources to sinks by augmenting paths (Ford and Fulkerson 1956).

    An augmenting path never takes back what a source has sent or a sink has received: both only grow, and what is
    pushed first has the first claim. Source s may use the sinks ``reach[s]``; sink t still takes ``spare[t]`` units;
    ``held[t]`` says whose units it has.
    """

    def __init__(self, reach: Mapping[int, Sequence[int]], spare: Sequence[int]) -> None:
        self.reach = reach
        self.spare = list(spare)
        self.held: list[dict[int, int]] = [{} for _ in spare]

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
        for sink in self.reach[source]:
            if left and self.spare[sink]:
                take = min(left, self.spare[sink])
                self.place(source, sink, take)
                left -= take
        while left:
            path = self._path(source)
            if not path:
                break
            left -= self._augment(path, left)
        return units - left

    def reachable(self, source: int) -> set[int]:
        """Return every sink that the source reaches, rerouting others: the over-demanded ones if it is stuck."""
        came_from: dict[int, int] = {}
        self._search(source, came_from)
        return set(came_from)

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

    def _search(
        self, source: int, came_from: dict[int, int], wanted: Callable[[int], bool] | None = None
    ) -> int | None:
        """Walk breadth first; ``came_from`` gets, for each sink met, the source it was met from."""
        seen, queue = {source}, [source]
        for at in queue:
            for sink in self.reach[at]:
                if sink in came_from:
                    continue
                came_from[sink] = at
                if wanted and wanted(sink):
                    return sink
                for other in self.held[sink]:
                    if other not in seen:
                        seen.add(other)
                        queue.append(other)
        return None

    def _path(self, source: int) -> list[tuple[int, int]]:
        """Return the shortest augmenting path as (source, sink) steps, the last sink having room; [] if none."""
        came_from: dict[int, int] = {}
        sink = self._search(source, came_from, lambda sink: self.spare[sink] > 0)
        if sink is None:
            return []
        path = [(came_from[sink], sink)]
        while path[-1][0] != source:
            # The source met here was found through a sink that holds its units.
            via = next(t for t in came_from if path[-1][0] in self.held[t])
            path.append((came_from[via], via))
        return path[::-1]

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
