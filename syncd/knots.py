"""Knots: rows that beat each other's support in turn.

A row needs its parents, and that no newer row shows that wants a UNIQUE value of its own. Mostly
that decides who shows, from what needs nothing down. But it may lead from a row back to itself. One
that wants what it rests on itself has never can show. And where X wants what Y has and rests on P,
and Q wants what P has and rests on Y, then X and P could show, or Q and Y. There the newest row
shows, and what it rests on with it. That unties the knot, or leaves a smaller one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence


class Graph:
    """Rows by number, of which the lowest is the newest's.

    rests: for each reference of each row, the rows of which it takes one; all they rest on in turn
    are there. rivals: for each value that must be unique, the rows that want it.
    """

    def __init__(
        self,
        rests: Mapping[int, Sequence[Collection[int]]],
        rivals: Iterable[Iterable[int]],
    ) -> None:
        self._rests = rests
        self._rivals = [[*rows] for rows in rivals]
        self._wants: dict[int, list[int]] = defaultdict(list)
        for value, rows in enumerate(self._rivals):
            for row in rows:
                self._wants[row].append(value)

    def knotted(self) -> set[int]:
        """Return the rows of all knots, and all that these need."""
        needs = self._needs(self._rests)
        found: set[int] = set()
        for circle in _circles(needs):
            if self._clashes(circle):
                _visit(circle[0], needs, found)
        return found

    def among(self, rows: Container[int]) -> Graph:
        """Return the part of the graph that has these rows only."""
        return Graph(
            {
                row: [[parent for parent in parents if parent in rows] for parents in references]
                for row, references in self._rests.items()
                if row in rows
            },
            [[row for row in wanting if row in rows] for wanting in self._rivals],
        )

    def losers(self) -> set[int]:
        """Return the rows that do not show."""
        outcome = _Outcome(self._rests)
        outcome.lose(row for row in self._rests if not outcome.can_rest(row))
        outcome.lose(self._beating_themselves())
        left = [[*self._rests]]
        while left:
            undecided = [row for row in left.pop() if outcome.is_open(row)]
            circles = [*_circles(self._needs(undecided, outcome.showing))]
            if len(circles) > 1:
                # What is needed comes first, and may untie the rest.
                left += reversed(circles)
            elif self._clashes(undecided):
                self._decide(min(undecided), outcome)
                left.append(undecided)
            else:
                for row in undecided:
                    self._decide(row, outcome)
        return outcome.lost

    def beaten(self, lost: Collection[int]) -> set[int]:
        """Return which of the rows that have lost want for nothing but a value.

        What they rest on shows, or rests on them in turn.
        """
        parents = {row: [*itertools.chain(*some)] for row, some in self._rests.items()}
        circle_of = {
            row: number for number, circle in enumerate(_circles(parents)) for row in circle
        }
        return {
            row
            for row in lost
            if all(
                any(one not in lost or circle_of[one] == circle_of[row] for one in parents)
                for parents in self._rests[row]
            )
        }

    def _needs(self, rows: Iterable[int], showing: Collection[int] = ()) -> dict[int, list[int]]:
        """Return what each of some rows needs to know of the others, if so much shows already."""
        needs: dict[int, list[int]] = {row: [] for row in sorted(rows)}
        last: dict[int, int] = {}
        for row, needed in needs.items():
            for parents in self._rests[row]:
                if not any(parent in showing for parent in parents):
                    needed += [parent for parent in parents if parent in needs]
            for value in self._wants[row]:
                # The next newer one knows of all that are newer still.
                if value in last:
                    needed.append(last[value])
                last[value] = row
        return needs

    def _clashes(self, rows: Iterable[int]) -> bool:
        """Say whether two of some rows want one value."""
        wanted = [value for row in rows for value in self._wants[row]]
        return len(wanted) > len({*wanted})

    def _beating_themselves(self) -> list[int]:
        """Return the rows that clash with what they must rest on, or of which two such rows clash.

        What each rests on in turn is two sets, as bits: of values, and of who wants which.
        """
        must = {
            row: [parents[0] for parents in map(list, references) if len(parents) == 1]
            for row, references in self._rests.items()
        }
        values: dict[int, int] = {}
        wishes: dict[int, int] = {}
        found: list[int] = []
        count = 0
        for circle in _circles(must):
            value = wish = 0
            for row in circle:
                for wanted in self._wants[row]:
                    value |= 1 << wanted
                    wish |= 1 << count
                    count += 1
                for parent in must[row]:
                    value |= values.get(parent, 0)
                    wish |= wishes.get(parent, 0)
            values |= dict.fromkeys(circle, value)
            wishes |= dict.fromkeys(circle, wish)
            if wish.bit_count() > value.bit_count():
                found += circle
        return found

    def _decide(self, row: int, outcome: _Outcome) -> None:
        """Let a row show with what it rests on, unless two of them want one value."""
        support = outcome.support(row)
        if self._clashes(support):
            outcome.lose([row])
        else:
            taken = [value for one in support for value in self._wants[one]]
            outcome.showing |= support
            outcome.lose({rival for value in taken for rival in self._rivals[value]} - support)


class _Outcome:
    """Which rows show and which have lost, as far as it is decided."""

    def __init__(self, rests: Mapping[int, Sequence[Collection[int]]]) -> None:
        self.showing: set[int] = set()
        self.lost: set[int] = set()
        self._rests = rests
        self._carries: dict[int, list[int]] = defaultdict(list)
        for row, references in rests.items():
            for parent in {parent for parents in references for parent in parents}:
                self._carries[parent].append(row)

    def is_open(self, row: int) -> bool:
        """Say whether nothing is decided about a row."""
        return row not in self.showing and row not in self.lost

    def can_rest(self, row: int) -> bool:
        """Say whether there is still something for a row to rest on."""
        return not any(self.lost.issuperset(parents) for parents in self._rests[row])

    def lose(self, rows: Iterable[int]) -> None:
        """Let rows lose, and with them what rests on nothing any more."""
        left = [*rows]
        while left:
            row = left.pop()
            if row not in self.lost:
                self.lost.add(row)
                left += [one for one in self._carries[row] if not self.can_rest(one)]

    def support(self, row: int) -> set[int]:
        """Return a row, and what must come to show so that it can."""
        found: set[int] = set()
        left = [row]
        while left:
            row = left.pop()
            if row not in found:
                found.add(row)
                left += [
                    min(parent for parent in parents if parent not in self.lost)
                    for parents in self._rests[row]
                    if self.showing.isdisjoint(parents)
                ]
        return found


def _circles(edges: Mapping[int, Collection[int]]) -> Iterator[list[int]]:
    """Yield nodes, those together that lead to each other, and after all else they lead to.

    This is Kosaraju's algorithm for strongly connected components, without recursion.
    """
    back: dict[int, list[int]] = {node: [] for node in edges}
    for node, following in edges.items():
        for one in following:
            back[one].append(node)
    left: list[int] = []
    seen: set[int] = set()
    finished: list[int] = []
    for first in edges:
        left.append(first)
        while left:
            node = left.pop()
            if node < 0:
                finished.append(~node)
            elif node not in seen:
                seen.add(node)
                left += [~node, *back[node]]
    found: set[int] = set()
    for node in reversed(finished):
        if circle := _visit(node, edges, found):
            yield circle


def _visit(first: int, edges: Mapping[int, Collection[int]], seen: set[int]) -> list[int]:
    """Return the nodes that edges lead to from one on, and add them to those seen."""
    visited: list[int] = []
    left = [first]
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            visited.append(node)
            left += edges[node]
    return visited
