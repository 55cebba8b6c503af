"""What a table demands of its rows, and the SQL that asks whether they meet it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syncd import ddl
from syncd.literals import literals_of, quoted


@dataclass(frozen=True)
class Term:
    """A part of what must be unique: an expression over a row's columns, and how it compares.

    column: the column's name where the expression is no more than that.
    """

    sql: str
    collation: str
    column: str | None


@dataclass(frozen=True)
class Unique:
    """Terms that SQLite keeps unique together, among the rows that a predicate selects."""

    terms: tuple[Term, ...]
    predicate: str | None = None

    @property
    def columns(self) -> frozenset[str] | None:
        """The columns it is over, or None if that takes more than names to say."""
        names = frozenset(term.column for term in self.terms if term.column is not None)
        is_plain = self.predicate is None and all(term.column for term in self.terms)
        return names if is_plain else None

    def without(self, made_of: Mapping[str, str]) -> Unique:
        """Return the same with what generated columns are made of in place of their names."""
        return Unique(
            tuple(
                term if term.column else Term(ddl.expanded(term.sql, made_of), term.collation, None)
                for term in self.terms
            ),
            self.predicate and ddl.expanded(self.predicate, made_of),
        )

    def identifies(self, key: Sequence[str]) -> bool:
        """Say whether it makes exactly these columns a key that is the same on every host."""
        exact = all(term.collation == "BINARY" for term in self.terms)
        return exact and self.columns == frozenset(key)

    @property
    def listed(self) -> str:
        """Its terms as columns u0, u1, ... of a query."""
        return ", ".join(f"{term.sql} AS u{n}" for n, term in enumerate(self.terms))

    @property
    def where(self) -> str:
        """The clause that selects the rows among which it holds."""
        return f" WHERE {self.predicate}" if self.predicate is not None else ""

    @property
    def compared(self) -> str:
        """What rows have in common, in a query of its terms, that may not show together."""
        return ", ".join(
            f"u{n} COLLATE {quoted(term.collation)}" for n, term in enumerate(self.terms)
        )

    @property
    def is_filled(self) -> str:
        """The condition that a row, in a query of its terms, wants a value; NULL is like none."""
        return " AND ".join(f"u{n} IS NOT NULL" for n in range(len(self.terms)))

    def same(self, left: str, right: str) -> str:
        """Return the condition that two rows, in queries of its terms, may not show together."""
        return " AND ".join(
            f"{left}.u{n} = {right}.u{n} COLLATE {quoted(term.collation)}"
            for n, term in enumerate(self.terms)
        )

    @property
    def name(self) -> str:
        """What it is over, for people."""
        return ", ".join(term.column or term.sql for term in self.terms)

    def value(self, alias: str) -> str:
        """Return the SQL of what a row has, in a query of its terms: a value, or literals."""
        values = [f"{alias}.u{n}" for n in range(len(self.terms))]
        return values[0] if len(values) == 1 else literals_of(values)


@dataclass(frozen=True)
class ForeignKey:
    """A reference: columns here, and the parent's columns in the same order."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]

    def is_met(self, child: str, parent: str | None = None) -> str:
        """Return the condition that a row refers to nothing or to a row of the parent.

        child: an alias of what has the columns. parent: another table with the parent's columns.
        """
        nothing = [f"{child}.{quoted(column)} IS NULL" for column in self.columns]
        among = f"{parent or quoted(self.parent)} AS p WHERE {self.refers(child, 'p')}"
        return f"({' OR '.join([*nothing, f'EXISTS (SELECT 1 FROM {among})'])})"

    def refers(self, child: str, parent: str) -> str:
        """Return the condition that a row refers to one of the parent. Both are aliases.

        They compare as the parent's column says, its affinity and its collation
        (sqlite.org/foreignkeys.html, section 3); the plus takes the child's affinity away.
        """
        return " AND ".join(
            f"{parent}.{quoted(to)} = +{child}.{quoted(column)}"
            for column, to in zip(self.columns, self.parent_columns, strict=True)
        )


@dataclass(frozen=True)
class Constraints:
    """What an enrolled table demands of its rows, as it stands now.

    has_policy: a constraint may say what to do instead of refusing a row. made_of: its generated
    columns, each with the SQL of what it is made of. declared: what to declare a column with that
    is to compare like the table's own, by its quoted name. presets: the SQL of each column's
    DEFAULT, by name, the generated ones left out.
    """

    required: frozenset[str]
    uniques: tuple[Unique, ...]
    foreign_keys: tuple[ForeignKey, ...]
    has_policy: bool
    made_of: Mapping[str, str]
    declared: Mapping[str, str]
    presets: Mapping[str, str]

    @property
    def strictly(self) -> str:
        """What to write behind INSERT or UPDATE so that a constraint refuses and does no more.

        A constraint may be declared to REPLACE or IGNORE instead. The clause is left out where it
        is not needed, because it would also govern the statements inside triggers.
        """
        return "OR ABORT" if self.has_policy else ""
