"""ClassAd expressions, as far as a constraint needs them: comparisons, ``&&``, ``||``, ``!``, ``member``, brackets.

An attribute that an ad does not have is undefined, and so is what is computed from it; undefined is not true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_TOKEN = re.compile(
    r'\s*(?:("(?:[^"\\]|\\.)*")|(\d+)|(=\?=|=!=|&&|\|\||==|!=|<=|>=|[<>!(){},])|([A-Za-z_][A-Za-z0-9_]*))'
)
UNDEFINED = object()


def holds(expression: str, ad: Mapping[str, Any]) -> bool:
    """Whether the expression is true of the ad.

    :raises ValueError: it is no expression
    """
    tokens, at = [], 0
    expression = expression.rstrip()
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"invalid constraint: {expression}")
        tokens.append(match)
        at = match.end()
    parser = _Parser(tokens, {name.lower(): value for name, value in ad.items()})
    found = parser.either()
    if parser.tokens:
        raise ValueError(f"invalid constraint: {expression}")
    return found is True


class _Parser:
    def __init__(self, tokens: list[re.Match[str]], ad: Mapping[str, Any]) -> None:
        self.tokens, self.ad = tokens, ad

    def taken(self, *words: str) -> str:
        if self.tokens and self.tokens[0][3] in words:
            return str(self.tokens.pop(0)[3])
        return ""

    def need(self, word: str) -> None:
        if not self.taken(word):
            raise ValueError(f"invalid constraint: {word} is missing")

    def either(self) -> Any:
        found = self.both()
        while self.taken("||"):
            other = self.both()
            found = True if found is True or other is True else other if found is False else found
        return found

    def both(self) -> Any:
        found = self.compared()
        while self.taken("&&"):
            other = self.compared()
            found = False if found is False or other is False else other if found is True else found
        return found

    def compared(self) -> Any:
        if self.taken("!"):
            found = self.compared()
            return not found if isinstance(found, bool) else UNDEFINED
        left = self.operand()
        operator = self.taken("==", "!=", "<", ">", "<=", ">=", "=?=", "=!=")
        if not operator:
            return left
        right = self.operand()
        if operator in ("=?=", "=!="):
            return (left is right or (type(left) is type(right) and left == right)) == (operator == "=?=")
        if UNDEFINED in (left, right):
            return UNDEFINED
        if isinstance(left, str) and isinstance(right, str):
            # HTCondor's == is blind to case.
            left, right = left.lower(), right.lower()
        return {
            "==": lambda: left == right,
            "!=": lambda: left != right,
            "<": lambda: left < right,
            ">": lambda: left > right,
            "<=": lambda: left <= right,
            ">=": lambda: left >= right,
        }[operator]()

    def operand(self) -> Any:
        if self.taken("("):
            found = self.either()
            self.need(")")
            return found
        if self.taken("{"):
            listed = []
            while not self.taken("}"):
                listed.append(self.operand())
                self.taken(",")
            return listed
        if not self.tokens:
            raise ValueError("invalid constraint: it ends too early")
        token = self.tokens.pop(0)
        if token[1] is not None:
            return json.loads(token[1])
        if token[2] is not None:
            return int(token[2])
        if token[4] is None:
            raise ValueError(f"invalid constraint at {token[3]}")
        word = token[4].lower()
        if word == "member" and self.taken("("):
            value = self.operand()
            self.need(",")
            among = self.operand()
            self.need(")")
            return UNDEFINED if value is UNDEFINED else value in among
        if word in ("true", "false"):
            return word == "true"
        return self.ad.get(word, UNDEFINED)
