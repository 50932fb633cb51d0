"""Which lines of the functions of some modules were reached, in many processes together.

coverage.py writes its data when a process ends; decoder children and what a fuzzer kills are ended
by SIGKILL. Here a line is one byte of a memory map that all processes share, so nothing is lost.
Lines outside functions run at every import and are not counted. Tracing takes half of the speed and
more, so the fuzzers do it only when asked to.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_INDEX, _MAP = "index.json", "lines"


def prepare(folder: Path, modules: Iterable[str]) -> dict[str, str]:
    """The environment in which Python processes ``follow`` the functions of ``modules``."""
    folder.mkdir()
    index, size = {}, 0
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin)
        index[str(path)] = (name, size)
        size += len(path.read_text().splitlines()) + 1
    (folder / _INDEX).write_text(json.dumps(index))
    (folder / _MAP).write_bytes(bytes(size))
    scripts = Path(__file__).parent
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(scripts)!r})\n"
        f"import lines_reached\nlines_reached.follow({str(folder)!r})\n"
        f"sys.path.remove({str(scripts)!r})\n"
    )
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([before] if before else [])])}


def follow(folder: str | Path) -> None:
    """Mark lines from here on, in threads that begin later too."""
    index = json.loads((Path(folder) / _INDEX).read_text())
    with (Path(folder) / _MAP).open("r+b") as file:
        marks = mmap.mmap(file.fileno(), 0)
    # Lines still missing, by function: one that is done runs untraced.
    missing: dict[CodeType, set[int] | None] = {}

    def called(frame: FrameType, _event: str, _argument: object) -> Any:
        code = frame.f_code
        try:
            lines = missing[code]
        except KeyError:
            lines = missing[code] = _lines(code) if code.co_filename in index else None
        if not lines:
            return None
        at = index[code.co_filename][1]

        def stepped(frame: FrameType, event: str, _argument: object) -> Any:
            if event == "line":
                marks[at + frame.f_lineno] = 1
                lines.discard(frame.f_lineno)
            return stepped

        return stepped

    threading.settrace(called)
    sys.settrace(called)


def report(folder: Path) -> None:
    """Print lines reached and lines there are, by module."""
    index = json.loads((folder / _INDEX).read_text())
    marks = (folder / _MAP).read_bytes()
    total = of = 0
    print("lines of functions that were reached:")
    for path, (name, at) in index.items():
        source = Path(path).read_text()
        lines = set().union(*map(_lines, _functions(compile(source, path, "exec"))))
        reached = sum(marks[at + line] for line in lines)
        total, of = total + reached, of + len(lines)
        print(f"  {name:40s}{reached:6d} of {len(lines):5d}{_share(reached, len(lines))}")
    print(f"  {'all':40s}{total:6d} of {of:5d}{_share(total, of)}")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:7.0%}" if whole else ""


def _functions(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x2:  # CO_NEWLOCALS: a function, not a class body
                yield constant
            yield from _functions(constant)


def _lines(code: CodeType) -> set[int]:
    # The line of the definition itself is an event of the caller's.
    return {line for *_, line in code.co_lines() if line} - {code.co_firstlineno}
