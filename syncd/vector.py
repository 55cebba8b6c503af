"""Version vectors: what has been merged, per origin.

A vector maps an origin (16 random bytes) to the highest seq below which every change of that origin
has been merged, or superseded by something merged. It is a plain frozen value; an absent origin
counts as 0. The operations are those of a join semilattice: `join` is associative, commutative and
idempotent, `covers` is its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

ORIGIN_BYTES = 16


class Vector(Mapping[bytes, int]):
    """An immutable mapping of origin to seq, without zero entries."""

    __slots__ = ("_seqs",)

    def __init__(self, seqs: Mapping[bytes, int] | None = None) -> None:
        self._seqs = {origin: seq for origin, seq in (seqs or {}).items() if seq > 0}

    def __getitem__(self, origin: bytes) -> int:
        return self._seqs.get(origin, 0)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._seqs)

    def __len__(self) -> int:
        return len(self._seqs)

    def __contains__(self, origin: object) -> bool:
        return origin in self._seqs

    def __hash__(self) -> int:
        return hash(frozenset(self._seqs.items()))

    def __repr__(self) -> str:
        inner = ", ".join(f"{origin.hex()[:8]}: {seq}" for origin, seq in sorted(self.items()))
        return f"Vector({{{inner}}})"

    def join(self, other: Mapping[bytes, int]) -> Vector:
        """Return the vector that covers both."""
        return Vector(
            {origin: max(self[origin], other.get(origin, 0)) for origin in {*self, *other}}
        )

    def covers(self, other: Mapping[bytes, int]) -> bool:
        """Say whether everything below `other` is below this vector too."""
        return all(self[origin] >= seq for origin, seq in other.items())

    def behind(self, other: Mapping[bytes, int]) -> int:
        """Count the seqs that `other` has and this vector lacks."""
        return sum(max(0, seq - self[origin]) for origin, seq in other.items())
