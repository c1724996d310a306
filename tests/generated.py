"""Random messages of any contract, from its types and bounds alone."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

_MOST = 4  # items of a collection: bounds are tested apart


def messages(contract: type[Any]) -> st.SearchStrategy[Any]:
    """Give every message that a contract allows, but for very long ones."""
    return _of(inspect.type_info(contract))


def _of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.Metadata():
            return _of(kind.type)
        case inspect.UnionType():
            return st.one_of([_of(part) for part in kind.types])
        case inspect.StructType():
            return _struct(kind)
        case inspect.DictType():
            most = min(_MOST, kind.max_length or _MOST)
            return st.dictionaries(_of(kind.key_type), _of(kind.value_type), max_size=most)
        case inspect.VarTupleType():
            most = min(_MOST, kind.max_length or _MOST)
            return st.lists(_of(kind.item_type), max_size=most).map(tuple)
        case _:
            return _scalar(kind)


def _scalar(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.BytesType():
            return st.binary(max_size=50)
        case inspect.IntType():
            return st.integers(kind.ge, kind.le)
        case inspect.FloatType():
            return st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False)
        case inspect.DateTimeType():
            minutes = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
            return st.datetimes(timezones=st.just(UTC) | minutes)
        case inspect.StrType():
            if kind.pattern is not None:
                return st.from_regex(kind.pattern, fullmatch=True)
            most = min(30, kind.max_length or 30)
            # Half of a surrogate pair is not text: it has no UTF-8.
            return st.text(
                st.characters(codec="utf-8"), min_size=kind.min_length or 0, max_size=most
            )
    raise NotImplementedError(f"no strategy for {kind!r}: add one")


def _struct(kind: inspect.StructType) -> st.SearchStrategy[Any]:
    return st.builds(kind.cls, **{field.name: _of(field.type) for field in kind.fields})
