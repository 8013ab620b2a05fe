"""The language of conditions: comparisons and arithmetic over names, and nothing else.

    confidence < 0.5 and (class_id in (14, 17) or Vehicle.Speed > 8) and not known(disagreement)

A condition is read with Python's parser and walked once into closures: a node that is not in the short list below is
refused, so nothing of Python can be reached. What is unknown (a missing name, NaN, a division by zero) stays unknown
through arithmetic and comparisons; `and`, `or` and `not` follow Kleene's logic; only what is certainly true fires.
"""

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from roadloop_models.errors import ConfigError
from roadloop_models.settings import nearest

MAX_CHARACTERS = 500
MAX_NODES = 250
_LARGEST = 1e300

Values = Mapping[str, float]
_Number = Callable[[Values], float]
_Truth = Callable[[Values], bool | None]

_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max}


@dataclass(frozen=True)
class Condition:
    """A condition that was understood."""

    text: str
    names: frozenset[str]
    """What it looks at."""
    _truth: _Truth

    def holds(self, values: Values) -> bool:
        """Whether it is certainly true; unknown is not."""
        return self._truth(values) is True


def parse_condition(text: str, known: Collection[str], where: str = "when") -> Condition:
    """Understand a condition over `known` names.

    Raises ConfigError, beginning with `where`, that names what is not of the language, or an unknown name and the
    nearest known one.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where}: {len(text)} characters, at most {MAX_CHARACTERS} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise ConfigError(f"{where}: too long: at most {MAX_NODES} names, numbers and operators are allowed")
        reader = _Reader(known, where)
        truth = reader.truth(tree)
        return Condition(text, frozenset(reader.names), truth)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        detail = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(f"{where}: not a condition: {detail}") from error


class _Reader:
    """Walks the tree once; `names` is what it met."""

    def __init__(self, known: Collection[str], where: str) -> None:
        self._known = known
        self._where = where
        self.names: set[str] = set()

    def truth(self, node: ast.expr) -> _Truth:
        if isinstance(node, ast.BoolOp):
            parts = [self.truth(part) for part in node.values]
            return _all(parts) if isinstance(node.op, ast.And) else _any(parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return _negated(self.truth(node.operand))
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "known":
            if len(node.args) != 1 or node.keywords:
                raise self._refused(node, "known() takes one value")
            number = self.number(node.args[0])
            return lambda values: not math.isnan(number(values))
        if isinstance(node, ast.Constant) and isinstance(node.value, bool):
            always = node.value
            return lambda _values: always
        raise self._refused(node, "a comparison is expected here, for example confidence < 0.5")

    def number(self, node: ast.expr) -> _Number:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            if isinstance(node.value, bool) or abs(node.value) >= _LARGEST:
                raise self._refused(node, "a number is expected here")
            value = float(node.value)
            return lambda _values: value
        if isinstance(node, ast.Name | ast.Attribute):
            return self._named(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner, sign = self.number(node.operand), -1.0 if isinstance(node.op, ast.USub) else 1.0
            return lambda values: sign * inner(values)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return _calculated(_ARITHMETIC[type(node.op)], self.number(node.left), self.number(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            return self._call(node, node.func.id)
        raise self._refused(node, "names, numbers, + - * /, abs, min and max are all there is")

    def _named(self, node: ast.Name | ast.Attribute) -> _Number:
        name = _dotted(node)
        if name is None:
            raise self._refused(node, "a name is letters, digits and dots")
        if name not in self._known:
            raise ConfigError(f"{self._where}: '{name}' is unknown{nearest(name, sorted(self._known))}")
        self.names.add(name)
        return lambda values: values.get(name, math.nan)

    def _call(self, node: ast.Call, name: str) -> _Number:
        count = len(node.args)
        if node.keywords or count < 1 or (count > 1) == (name == "abs"):
            raise self._refused(node, f"{name}() takes {'one value' if name == 'abs' else 'two or more values'}")
        function, parts = _FUNCTIONS[name], [self.number(part) for part in node.args]

        def call(values: Values) -> float:
            given = [part(values) for part in parts]
            return math.nan if any(map(math.isnan, given)) else function(*given)

        return call

    def _comparison(self, node: ast.Compare) -> _Truth:
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
            return self._membership(node.left, node.comparators[0], isinstance(node.ops[0], ast.In))
        if not all(type(op) in _COMPARE for op in node.ops):
            raise self._refused(node, "only < <= > >= == != and 'in' compare")
        numbers = [self.number(part) for part in (node.left, *node.comparators)]
        pairs = [
            _compared(_COMPARE[type(op)], left, right)
            for op, left, right in zip(node.ops, numbers, numbers[1:], strict=False)
        ]
        return pairs[0] if len(pairs) == 1 else _all(pairs)

    def _membership(self, left: ast.expr, right: ast.expr, inside: bool) -> _Truth:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise self._refused(right, "what follows 'in' is a list of numbers: class_id in (14, 17)")
        number, choices = self.number(left), [self.number(part) for part in right.elts]
        found = _any([_compared(operator.eq, number, choice) for choice in choices])
        return found if inside else _negated(found)

    def _refused(self, node: ast.AST, why: str) -> ConfigError:
        return ConfigError(f"{self._where}: '{ast.unparse(node)[:80]}': {why}")


def _dotted(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _calculated(function: Callable[[float, float], float], left: _Number, right: _Number) -> _Number:
    def calculate(values: Values) -> float:
        try:
            return function(left(values), right(values))
        except ZeroDivisionError:
            return math.nan

    return calculate


def _compared(function: Callable[[float, float], bool], left: _Number, right: _Number) -> _Truth:
    def compare(values: Values) -> bool | None:
        first, second = left(values), right(values)
        return None if math.isnan(first) or math.isnan(second) else function(first, second)

    return compare


def _negated(part: _Truth) -> _Truth:
    def negate(values: Values) -> bool | None:
        found = part(values)
        return None if found is None else not found

    return negate


def _all(parts: list[_Truth]) -> _Truth:
    def check(values: Values) -> bool | None:
        answers = [part(values) for part in parts]
        return False if False in answers else None if None in answers else True

    return check


def _any(parts: list[_Truth]) -> _Truth:
    def check(values: Values) -> bool | None:
        answers = [part(values) for part in parts]
        return True if True in answers else None if None in answers else False

    return check
