from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import nh2st
from nh2st._docs import documented

ROOT = Path(nh2st.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text()
)
ROOMS = ("datasets", "get", "models", "pl", "pp", "tl")
FUNCTIONS = sorted(
    f"{room}.{name}"
    for room in ROOMS
    for name in getattr(nh2st, room).__all__
    if inspect.isfunction(getattr(getattr(nh2st, room), name))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described_in_order(name):
    room, _, attribute = name.partition(".")
    function = getattr(getattr(nh2st, room), attribute)
    arguments = [argument.name for argument in inspect.signature(function).parameters.values()]
    _, _, described = inspect.getdoc(function).partition("Parameters\n----------\n")
    described, *_ = re.split(r"\n\n\w+\n---", described)
    heads = re.findall(r"^(\S.*)$", described, re.MULTILINE)
    assert [argument.lstrip("*") for head in heads for argument in head.split(", ")] == arguments


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shared_descriptions_are_filled_in(name):
    room, _, attribute = name.partition(".")
    assert "%(" not in inspect.getdoc(getattr(getattr(nh2st, room), attribute))


def test_shared_descriptions_go_on_with_own_words():
    @documented
    def function():
        """Draw.

        %(spots)s
            Others are grey.
        %(table_key)s
        """

    assert inspect.getdoc(function).splitlines()[2:] == [
        "spots",
        "    Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where there is one.",
        "    Others are grey.",
        "table_key",
        "    Which table to use where several fit.",
    ]


def test_description_that_nobody_wrote_is_an_error():
    def function():
        """%(nothing)s"""

    with pytest.raises(KeyError, match="nothing"):
        documented(function)


def test_functions_without_docstrings_stay_as_they_are():
    def function():
        return 1

    assert documented(function) is function
    assert function.__doc__ is None
