"""Select rows: `--where`, `--sort`, `--top`, and elements."""

from __future__ import annotations

import ast
import heapq
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, TypeVar

from crystalpredict.errors import UsageError, hint_of
from crystalpredict.io.cell_values import fits, text_of
from crystalpredict.prediction.composition import ANY_ELEMENTS, Elements
from crystalpredict.prediction.rows import NO_EXTRA
from crystalpredict.properties import AUXILIARY, PROPERTIES, REQUESTED, TEXT_COLUMNS, match_property

Row = TypeVar("Row")
Fields = Mapping[str, Any]
MAX_CONDITION_CHARACTERS = 1000
MAX_CONDITION_DEPTH = 100  # nested operations
TEXT_FIELDS = ("path", "formula", "warnings")
DUPLICATE_OF = "duplicate_of"  # column of `--duplicates`
EMPTY_FIELDS = ("warnings", DUPLICATE_OF)  # without a value they are empty texts
COUNT_FIELDS = ("index", "n_atoms")
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_COMBINE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_ALTER: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


def find_field(name: str, columns: Sequence[str], extra: Iterable[str] = ()) -> str:
    """Return the field of a row with a given name: that of a column, or of its property.

    Args:
        name: As a user writes it.
        columns: Columns of values.
        extra: Further columns.

    Raises:
        UsageError: There is no such field.
    """
    fields = (*columns, *COUNT_FIELDS, *TEXT_FIELDS, *extra)
    if name in fields:
        return name
    prop = match_property(name, (*PROPERTIES, *REQUESTED, *AUXILIARY))
    if prop and prop.name == name and prop.column in columns:
        return prop.column
    ends = ("_lo90", "_hi90")
    plain = [column for column in columns if "_orderings_" in name or "_orderings_" not in column]
    begun = [column for column in plain if column.startswith(f"{name}_") and not column.endswith(ends)]
    meant: set[str] = {*begun, *((prop.column,) if prop and prop.column in columns else ())}
    if len(meant) == 1:  # also a property of a user's model without its unit
        return meant.pop()
    raise UsageError(f"no column {name!r}: {hint_of(name, fields)}")


class Condition:
    """An expression such as `bandgap_eV > 1 and n_atoms <= 20`: comparisons of columns, numbers and texts.

    `contains(warnings, "unlike")` is a condition as well, and `column("band gap")` a column with an odd name.
    """

    def __init__(self, text: str, columns: Sequence[str], extra: Mapping[str, str] = NO_EXTRA) -> None:
        """Parse the expression.

        Args:
            text: The expression.
            columns: Columns of values.
            extra: What further columns hold, by their names.

        Raises:
            UsageError: The text is not such an expression, or names no column.
        """
        self.text, self.columns, self.extra = text, columns, extra
        self.fields: dict[str, str] = {}  # by the names in the expression
        if len(text) > MAX_CONDITION_CHARACTERS:
            raise UsageError(f"--where has {len(text)} characters: write at most {MAX_CONDITION_CHARACTERS}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SyntaxWarning
                self.tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
            raise UsageError(f"--where {text!r} is not a condition ({reason}): write it as in bandgap_eV > 1") from None
        if _is_deep(self.tree):
            raise UsageError(
                f"--where has more than {MAX_CONDITION_DEPTH} nested operations: write a simpler condition"
            )
        if not self._is_condition(self.tree):
            raise UsageError(
                f"--where {text!r} is not a condition: compare a column with a number, as in bandgap_eV > 1"
            )

    def matches(self, fields: Fields) -> bool:
        """Whether a row's fields fulfil the condition; False for a row with an error or a missing value."""
        return not fields.get("error") and self._truth(self.tree, fields) is True

    def fails(self, fields: Fields) -> bool:
        """Whether the condition cannot hold whatever the fields are that are not given."""
        return self._truth(self.tree, fields) is False

    def _is_condition(self, node: ast.expr) -> bool:
        """Whether a part of the expression is a condition; UsageError if it has anything that is not allowed."""
        if isinstance(node, ast.BoolOp):
            return all(self._is_condition(part) for part in node.values)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self._is_condition(node.operand)
        if isinstance(node, ast.Compare):
            kinds = {self._kind(part) for part in (node.left, *node.comparators)}
            if kinds == {"text", "number"}:
                raise UsageError(f"--where compares text with numbers: {ast.unparse(node)}")
            if "boolean" in kinds and (len(kinds) > 1 or any(type(op) not in (ast.Eq, ast.NotEq) for op in node.ops)):
                self._refuse(node)
            return all(type(op) in _COMPARE or self._refuse(node) for op in node.ops)
        if isinstance(node, ast.Call) and not self._name_in(node):
            return self._is_contains(node) or self._refuse(node)
        return self._kind(node) == "boolean" and not isinstance(node, ast.Constant)

    def _is_contains(self, node: ast.Call) -> bool:
        """Whether a call is `contains(column, "text")`."""
        named = isinstance(node.func, ast.Name) and node.func.id == "contains" and not node.keywords
        if not named or len(node.args) != 2:
            return False
        whole, part = node.args
        is_text = isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value != ""
        return is_text and bool(self._name_in(whole)) and self._kind(whole) == "text"

    def _name_in(self, node: ast.expr) -> str:
        """Return the name of the column that a term is, or else an empty text."""
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):  # a column such as spacegroup.number
            dotted = ast.unparse(node)
            return dotted if dotted in self.extra else ""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "column":
            (name,) = node.args if len(node.args) == 1 and not node.keywords else (None,)
            return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
        return ""

    def _kind(self, node: ast.expr) -> str:
        """Return the type of a term, `text`, `number` or `boolean`."""
        if name := self._name_in(node):
            self.fields[name] = field = find_field(name, self.columns, self.extra)
            if field in self.extra:
                return {"integer": "number", "json": "text"}.get(self.extra[field], self.extra[field])
            return "text" if field in (*TEXT_FIELDS, *TEXT_COLUMNS) else "number"
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bool):
            return {str: "text", bool: "boolean"}.get(type(node.value), "number")
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and type(node.op) in _COMBINE:
            parts = [node.left, node.right]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            parts = [node.operand]
        if not parts or any(self._kind(part) != "number" for part in parts):
            self._refuse(node)
        return "number"

    def _refuse(self, node: ast.expr) -> bool:
        raise UsageError(
            f"--where cannot have {ast.unparse(node)[:60]!r}: use columns, numbers, texts in quotes, < <= > >= == !=, "
            '+ - * /, and, or, not, contains(column, "text"), column("name")'
        )

    def _truth(self, node: ast.expr, fields: Fields) -> bool | None:
        """Whether a condition holds; None if that depends on a missing value, as after 1 / 0."""
        if isinstance(node, ast.BoolOp):
            parts = [self._truth(part, fields) for part in node.values]
            decisive = isinstance(node.op, ast.Or)  # one such part decides
            return decisive if decisive in parts else None if None in parts else not decisive
        if isinstance(node, ast.UnaryOp):
            held = self._truth(node.operand, fields)
            return None if held is None else not held
        if isinstance(node, ast.Call) and not self._name_in(node):
            whole, part = node.args
            assert isinstance(part, ast.Constant)
            field = self.fields[self._name_in(whole)]
            return _contains(self._cell(field, fields), str(part.value), of_formula="formula" in field.lower())
        if not isinstance(node, ast.Compare):
            value = self._value(node, fields)
            return value if isinstance(value, bool) else None
        try:
            values = [self._value(part, fields) for part in (node.left, *node.comparators)]
        except (TypeError, ZeroDivisionError, OverflowError):
            return None
        if None in values:
            return None
        return all(_COMPARE[type(op)](*pair) for op, pair in zip(node.ops, pairwise(values), strict=True))

    def _value(self, node: ast.expr, fields: Fields) -> Any:
        if isinstance(node, ast.UnaryOp):
            return _ALTER[type(node.op)](self._value(node.operand, fields))
        if isinstance(node, ast.BinOp):
            return _COMBINE[type(node.op)](self._value(node.left, fields), self._value(node.right, fields))
        if name := self._name_in(node):
            cell = self._cell(self.fields[name], fields)
            return text_of(cell) if isinstance(cell, list | dict) else cell
        assert isinstance(node, ast.Constant)
        return node.value

    def _cell(self, field: str, fields: Fields) -> Any:
        """Return the value of a field; None if it is missing, or of another kind than its column."""
        cell = fields.get(field)
        if field in EMPTY_FIELDS and field in fields:
            return "; ".join(cell) if isinstance(cell, list) else cell or ""
        return cell if fits(cell, self.extra.get(field, "json")) else None


def _contains(whole: Any, part: str, *, of_formula: bool) -> bool | None:
    """Whether a text has a part, or a list an item; None without a value.

    In a formula, an element is not found in the symbol of another, nor an amount in a larger one.
    """
    if whole is None:
        return None
    if isinstance(whole, list):
        return part in whole
    if not of_formula:
        return part in text_of(whole)
    end = "(?![0-9.])" if part[-1].isdecimal() else "(?![a-z])"
    return re.search(re.escape(part) + end, text_of(whole)) is not None


def _is_deep(tree: ast.expr) -> bool:
    """Whether more than MAX_CONDITION_DEPTH operations are nested."""
    level: list[ast.AST] = [tree]
    for _ in range(MAX_CONDITION_DEPTH):
        level = [below for node in level for below in ast.iter_child_nodes(node) if isinstance(below, ast.expr)]
    return bool(level)


@dataclass(frozen=True)
class Selection:
    """The values of `--where`, `--sort` and `--top`, and of the options on elements."""

    condition: Condition | None = None
    sort: str = ""
    descending: bool = False
    top: int | None = None
    elements: Elements = ANY_ELEMENTS
    sort_kind: str = "json"

    @classmethod
    def of(
        cls,
        where: str | None,
        sort: str | None,
        top: int | None,
        columns: Sequence[str],
        extra: Mapping[str, str] = NO_EXTRA,
        elements: Elements = ANY_ELEMENTS,
    ) -> Selection:
        """Return the selection of a command's options.

        Args:
            where: Condition.
            sort: Column, perhaps with a minus sign.
            top: Number of rows.
            columns: Columns of values.
            extra: What further columns hold, by their names.
            elements: Which elements crystals may have.

        Raises:
            UsageError: An option is invalid, or `top` is given without `sort`.
        """
        if top is not None and not sort:
            raise UsageError("--top needs --sort COLUMN")
        condition = Condition(where, columns, extra) if where is not None else None
        descending = bool(sort and sort.startswith("-"))
        column = find_field(sort.removeprefix("-"), columns, extra) if sort else ""
        return cls(condition, column, descending, top, elements, extra.get(column, "json"))

    def __bool__(self) -> bool:
        return self.filters or bool(self.sort)

    @property
    def filters(self) -> bool:
        """Whether some rows may be left out whatever their order is."""
        return self.condition is not None or bool(self.elements)

    def fails(self, fields: Fields) -> bool:
        """Whether a row of which some fields are given cannot be selected."""
        if not self.elements.allow(fields["formula"]):
            return True
        return self.condition is not None and self.condition.fails(fields)

    def _takes(self, fields: Fields) -> bool:
        if self.elements and (fields.get("error") or not self.elements.allow(fields["formula"] or "")):
            return False
        return self.condition is None or self.condition.matches(fields)

    def _order(self, fields: Fields) -> Any:
        """Return the value to sort a row by; None without one."""
        value = fields.get(self.sort)
        if fields.get("error") or not fits(value, self.sort_kind):
            return None
        return text_of(value) if self.sort_kind == "json" and not isinstance(value, int | float | None) else value

    def of_rows(self, rows: Iterable[Row], fields_of: Callable[[Row], Fields]) -> Iterator[Row]:
        """Yield the selected rows in the requested order; equal ones in the order of the input.

        Rows with an error or without a value in the column to sort by come last; with `top` they are left out. With
        `top`, that many rows are in memory; with `sort` alone, all.
        """
        pairs = ((row, fields_of(row)) for row in rows)
        chosen = (pair for pair in pairs if self._takes(pair[1]))
        if not self.sort:
            return (row for row, _ in chosen)
        keyed = ((row, self._order(fields)) for row, fields in chosen)
        if self.top is not None:
            first = heapq.nlargest if self.descending else heapq.nsmallest
            valued = (pair for pair in keyed if pair[1] is not None)
            return (row for row, _ in first(self.top, valued, key=_key))
        kept = list(keyed)
        having = sorted((pair for pair in kept if pair[1] is not None), key=_key, reverse=self.descending)
        return (row for row, _ in chain(having, (pair for pair in kept if pair[1] is None)))


def _key(pair: tuple[Any, Any]) -> Any:
    return pair[1]
