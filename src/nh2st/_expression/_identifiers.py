"""Names of genes: symbols and Ensembl ids, what is the same in them, and which species they look like."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_ENSEMBL = re.compile(r"(ENS[A-Z]*)(?<=G)(\d{11})(\.\d+)?")
_SPECIES = {"ENSG": "human", "ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish"}
_HUMAN = re.compile(r"[A-Z][A-Z0-9]*(orf\d+)?([-.][A-Z0-9]+)*")
_RODENT = re.compile(r"[A-Z][a-z]+[A-Za-z0-9]*([-.][A-Za-z0-9]+)*")
_DATE = re.compile(r"0*(\d{1,2})[-/](mar|sep|dec)|(mar|sep|dec)[-/]?0*(\d{1,2})")
_SEPARATORS = str.maketrans("._ ", "---")
_FAMILY = re.compile(r"(mar)(?:ch|chf)(\d{1,2})|(sep)(?:t|tin)(\d{1,2})|(de)lec(1)")


def without_version(name: str) -> str:
    """Ensembl id without its version; other names as they are.

    Examples
    --------
    >>> without_version("ENSG00000141736.14"), without_version("HLA.A")
    ('ENSG00000141736', 'HLA.A')
    """
    if name.startswith("ENS") and (match := _ENSEMBL.match(name)):
        return name[: match.end(2)] + name[match.end() :]
    return name


def loose(name: str) -> str:
    """What remains of a name when case, kind of separator, and damage by spreadsheets are disregarded.

    Spreadsheets turn ``MARCHF1`` (once ``MARCH1``), ``SEPTIN2`` (once ``SEPT2``) and ``DELEC1`` into dates.

    Examples
    --------
    >>> loose("HLA.A") == loose("HLA-A"), loose("1-Mar") == loose("Mar-01") == loose("MARCHF1")
    (True, True)
    """
    plain = name.casefold().translate(_SEPARATORS)
    if match := _DATE.fullmatch(plain):
        day, month, other_month, other_day = match.groups()
        return f"{month or other_month}-{day or other_day}"
    if match := _FAMILY.fullmatch(plain):
        month, number = (part for part in match.groups() if part)
        return f"{'dec' if month == 'de' else month}-{number}"
    return plain


def species_of(names: Iterable[str]) -> str | None:
    """Species that most of the names look like, and the kind of names, such as ``"human symbols"``; else None."""
    names = list(names)
    if prefix := _most(names, _ensembl_prefix):
        return f"{_SPECIES.get(prefix, prefix)} Ensembl ids"
    return _most(names, _symbols)


def _ensembl_prefix(name: str) -> str | None:
    match = _ENSEMBL.match(name)
    return match[1] if match else None


def _symbols(name: str) -> str | None:
    # One letter and digits is written alike in all species.
    if sum(map(str.isalpha, name)) < 2:
        return None
    return "human symbols" if _HUMAN.fullmatch(name) else "mouse or rat symbols" if _RODENT.fullmatch(name) else None


def _most(names: list[str], kind_of: Callable[[str], str | None]) -> str | None:
    kinds = [kind_of(name) for name in names]
    common = max(set(kinds), key=kinds.count, default=None)
    return common if kinds.count(common) > len(names) / 2 else None
