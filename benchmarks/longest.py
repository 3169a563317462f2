"""What a trace says about where a step's time went."""

import collections
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jax.profiler import ProfileData, ProfilePlane

_END = "end: "  # XLA:CPU writes this event where an operation that it had only started is over
_AROUND_OTHERS = re.compile(r"(while|call|conditional)(\.|$)")  # their time is that of what is in
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{.*?op_name="([^"]*)"', re.M)


class Operation(NamedTuple):
    """An operation of the compiled program, and what all its runs in a trace took together."""

    name: str
    scope: str  # the modules and the operation that it comes from, "" where XLA does not say
    milliseconds: float


def scopes(program: str) -> dict[str, str]:
    """{instruction: modules and operation, as Flax names them} of a compiled program's text."""
    return {name: scope for name, scope in _INSTRUCTION.findall(program)}


def durations(plane: ProfilePlane) -> dict[str, float]:
    """{instruction: nanoseconds of all its runs} on one device."""
    total, started = collections.Counter(), {}
    # In the order of time: an operation may end on another thread than it started on.
    events = (event for trace in plane.lines for event in trace.events)
    for event in sorted(events, key=lambda event: event.start_ns):
        stats = dict(event.stats)
        if event.name.startswith(_END):
            if ends := started.pop(event.name.removeprefix(_END), None):
                total[event.name.removeprefix(_END)] += max(event.end_ns - ends, 0)
        elif "hlo_op" in stats and not _AROUND_OTHERS.match(stats["hlo_op"]):
            total[stats["hlo_op"]] += event.duration_ns
            started[stats["hlo_op"]] = event.end_ns
    return total


def operations(planes: Iterable[ProfilePlane], named: Mapping[str, str]) -> list[Operation]:
    """The operations of a trace, longest first; of several devices, those of the first."""
    for plane in planes:
        if found := durations(plane):
            listed = [Operation(k, named.get(k, ""), v / 1e6) for k, v in found.items()]
            return sorted(listed, key=lambda operation: -operation.milliseconds)
    return []


def longest_operations(folder: pathlib.Path, program: str, count: int = 10) -> list[str]:
    """Lines on the operations that took longest in the newest trace of a folder.

    Args:
        folder: that `jax.profiler.trace` wrote into.
        program: the text of what was traced, `compiled.as_text()`.
        count: of operations.
    """
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    found = operations(ProfileData.from_file(str(newest)).planes, scopes(program))
    total = sum(operation.milliseconds for operation in found)
    lines = [f"  trace: {newest}; the {count} longest of {len(found)} operations"]
    for name, scope, milliseconds in found[:count]:
        lines.append(f"  {milliseconds / total:6.1%}  {name:40} {scope}")
    return lines
