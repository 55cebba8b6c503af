"""What only the text of a CREATE statement tells, and no pragma does.

The expressions of an index, which rows a partial one is over, what generated columns are made of,
and the statements of a trigger. Only as much is read as that takes; SQLite has found the statement
well formed before.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping

# What may hide a parenthesis, a comma or a name from us: strings, quoted names, comments.
_OPAQUE = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/"""
_TOKEN = re.compile(rf"({_OPAQUE})|([(),])|([^'\"`\[(),/-]+|.)", re.DOTALL)
# To SQLite whatever is not ASCII is a letter.
_BARE = r"[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*"
# Of a blob such as x'00', and of a number such as 1e5, the letter is no name.
_NAME = re.compile(rf"[xX]'[^']*'|\d[\w.]*|(?P<name>{_OPAQUE}|{_BARE})|.", re.DOTALL)
_RAISE = re.compile(rf"({_OPAQUE})|\braise\s*\((?:{_OPAQUE}|[^()])*\)", re.DOTALL | re.IGNORECASE)
# SQLite takes a string for a name, too, where only a name can stand.
_QUOTES = {'"': '"', "`": "`", "[": "]", "'": "'"}


def index(sql: str) -> tuple[list[str], str | None]:
    """Split CREATE INDEX into its terms, as SQL without collation and direction, and its WHERE."""
    terms, rest = _listed(sql)
    bare = [
        re.sub(r"(?i)(\s+COLLATE\s+\S+)?(\s+(ASC|DESC))?\s*$", "", term).strip() for term in terms
    ]
    where = re.match(r"(?is)\s*WHERE\b(.*)", rest)
    return bare, where[1].strip() if where else None


def generated(sql: str, names: Collection[str]) -> dict[str, str]:
    """Return what generated columns are made of, by CREATE TABLE: name to SQL."""
    wanted = {name.casefold(): name for name in names}
    declared = {next(words(one), "").casefold(): one for one in _listed(sql)[0]}
    return {wanted[n]: _behind_as(one) for n, one in declared.items() if n in wanted}


def collations(sql: str) -> dict[str, str]:
    """Return the collations that CREATE TABLE declares columns with: name to collation."""
    found = {}
    for declared in _listed(sql)[0]:
        words = [match[0] for match in _words(_outside(declared))]
        for word, after in itertools.pairwise(words):
            if word.casefold() == "collate":
                found[_unquoted(words[0])] = _unquoted(after)
    return found


def expanded(sql: str, made_of: Mapping[str, str]) -> str:
    """Return an expression with what columns are made of in place of their names."""
    by_name = {name.casefold(): name for name in made_of}
    text = ""
    for match in _NAME.finditer(sql):
        word = match["name"] or ""
        name = None if word.startswith("'") else by_name.get(_unquoted(word).casefold())
        if name is None or re.match(r"\s*\(", sql[match.end() :]):
            text += match[0]
        else:
            others = {n: s for n, s in made_of.items() if n != name}
            text += f"({expanded(made_of[name], others)})"
    return text


def trigger(sql: str) -> tuple[str, list[str]]:
    """Split CREATE TRIGGER into what stands before its BEGIN, and its statements."""
    head, before, depth = "", "", 0
    pieces = _NAME.finditer(sql)
    for match in pieces:
        word = match[0].casefold()
        # A trigger, a table or a column may have that name, too.
        if word == "begin" and depth == 0 and before not in ("trigger", "on", "of", ",", "."):
            break
        head += match[0]
        depth += {"(": 1, ")": -1}.get(word, 0)
        if not re.match(r"\s|--|/\*", word):
            before = word
    statements = [""]
    for match in pieces:
        if match[0] == ";":
            statements.append("")
        else:
            statements[-1] += match[0]
    return head.strip(), [statement.strip() for statement in statements[:-1]]


def is_instead(head: str) -> bool:
    """Say whether a trigger, by what stands before its BEGIN, takes the place of the write."""
    found = [word.casefold() for word in words(head)]
    return ("instead", "of") in itertools.pairwise(found)


def written_by(statement: str) -> str | None:
    """Return the table that a statement of a trigger writes, None if it only reads.

    In a trigger no statement begins with WITH, and no name of a schema stands before a table's.
    """
    words = [match[0] for match in itertools.islice(_words(statement), 5)]
    verb = words[0].casefold()
    if verb not in ("insert", "replace", "update", "delete"):
        return None
    at = 3 if words[1].casefold() == "or" else 1
    return _unquoted(words[at] if verb == "update" else words[at + 1])


def ignoring(statement: str) -> str:
    """Return a statement of a trigger so that it leaves out what a constraint refuses it.

    One that says itself what to do, and that is not to fail, does that. RAISE is NULL.
    """
    statement = _RAISE.sub(lambda match: match[1] or "NULL", statement)
    verb, second, third = itertools.islice(_words(statement), 3)
    if verb[0].casefold() not in ("insert", "update"):
        return statement
    behind = verb.end()
    if second[0].casefold() == "or":
        if third[0].casefold() in ("ignore", "replace"):
            return statement
        behind = third.end()
    return f"{statement[: verb.end()]} OR IGNORE{statement[behind:]}"


def _listed(sql: str) -> tuple[list[str], str]:
    """Split a statement into what its outermost parentheses list, and what follows them.

    A comment is a blank.
    """
    items, text, depth, rest = [], "", 0, ""
    is_listed = False
    for match in _TOKEN.finditer(sql):
        piece = " " if match[0].startswith(("--", "/*")) else match[0]
        mark = match[2]
        if is_listed:
            rest += piece
            continue
        depth += {"(": 1, ")": -1}.get(mark or "", 0)
        if (mark == "," and depth == 1) or (mark == ")" and depth == 0):
            items.append(text)
            text, is_listed = "", depth == 0
        elif depth > 1 or (depth == 1 and mark != "("):
            text += piece
    return items, rest


def words(sql: str) -> Iterator[str]:
    """Yield the words of a piece of SQL, without their quotes."""
    for match in _words(sql):
        yield _unquoted(match[0])


def _words(sql: str) -> Iterator[re.Match[str]]:
    """Find the words of a piece of SQL, whatever stands in quotes included."""
    for match in _NAME.finditer(sql):
        name = match["name"]
        if name and not name.startswith(("--", "/*")):
            yield match


def _behind_as(declared: str) -> str:
    """Return what stands in the parentheses behind the AS of a column's declaration."""
    outside = inside = ""
    depth = 0
    for match in _TOKEN.finditer(declared):
        depth -= match[2] == ")"
        if depth:
            inside += match[0]
        elif inside and re.search(r"(?i)\bAS\s*$", outside):
            return inside
        else:
            outside, inside = outside + (match[3] or ""), ""
        depth += match[2] == "("
    raise ValueError(f"not generated: {declared}")


def _outside(declared: str) -> str:
    """Return what stands in no parentheses of a column's declaration."""
    outside, depth = "", 0
    for match in _TOKEN.finditer(declared):
        depth -= match[2] == ")"
        if not depth:
            outside += match[0]
        depth += match[2] == "("
    return outside


def _unquoted(name: str) -> str:
    closing = _QUOTES.get(name[:1])
    return name if closing is None else name[1:-1].replace(closing * 2, closing)
