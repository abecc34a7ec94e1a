"""The way through a tool's JSON Schema: references, alternatives, what stands where. Pure.

Each part is looked at once: schemas may contain themselves, in many places.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Set
from typing import Any, Final

from mcphub.isolation.kinds import properties_of

DEEPEST: Final = 8
"""Steps into a schema after which nothing is followed."""


def resolved(root: Mapping[str, Any], schema: Any, depth: int = 0) -> Mapping[str, Any]:
    """Follow `$ref`, and take the first alternative that is not null.

    Args:
        root: The tool's schema, in which references lead somewhere.
        schema: A part of it.
        depth: Steps taken so far.
    """
    if not isinstance(schema, dict) or depth > DEEPEST:
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part, {}) if isinstance(target, dict) else {}
        return resolved(root, target, depth + 1)
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list):
            usable = [o for o in options if isinstance(o, dict) and o.get("type") != "null"]
            if usable:
                outer = {k: v for k, v in schema.items() if k not in {key, "default"}}
                return resolved(root, {**outer, **usable[0]}, depth + 1)
    parts = schema.get("allOf")
    if isinstance(parts, list):
        merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
        for part in parts:
            merged.update(resolved(root, part, depth + 1))
        return merged
    return schema


def way_to(root: Mapping[str, Any], names: Set[str]) -> set[int]:
    """Return which schemas lead to the nearest place of each name, by identity."""
    way: set[int] = set()
    missing = set(names)
    before: dict[int, int] = {}
    for schema, own, outer in _objects(root):
        before[id(schema)] = id(outer)
        if missing & own.keys():
            step = id(schema)
            while step in before:
                way.add(step)
                step = before[step]
            missing -= own.keys()
        if not missing:
            break
    return way


def beside(root: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the properties of the object nearest to the surface that has one of that name, or none."""
    return next((own for _, own, _ in _objects(root) if name in own), {})


def _objects(root: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any], Any]]:
    """Yield each part of a schema, its properties, and the part that it stands in; the nearest first."""
    seen = {id(root)}
    waiting: deque[tuple[Any, Any]] = deque([(root, None)])
    while waiting:
        schema, outer = waiting.popleft()
        inner = resolved(root, schema)
        own = properties_of(inner)
        yield schema, own, outer
        for part in (inner.get("items"), *own.values()):
            if isinstance(part, dict) and id(part) not in seen:
                seen.add(id(part))
                waiting.append((part, schema))
