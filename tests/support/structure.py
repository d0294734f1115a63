"""The structure of hdbench, read from its source: imports, circles, lengths and names.

`python -m tests.support.structure [FOLDER]` prints the figures of a checkout.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
LAYERS = (  # a folder imports only itself and what stands before it
    "core",
    "flow",
    "networks",
    "datasets",
    "methods",
    "metrics",
    "evaluation",
    "suite",
    "stages",
    "report",
    "experiments",
    "tools",
    "cli",
)
FILLERS = ("found", "own", "each", "part")  # names of variables that say nothing
REASON = re.compile(r"#.*\b(optional|start-up): \S")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module in one statement."""

    importer: str  # dotted name of the module that imports
    imported: str  # dotted name of the module, of hdbench or of another distribution
    line: int
    nested: bool  # inside a function
    reason: bool  # says why it is nested

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function or method with its length in lines from `def`; decorators declare."""

    module: str
    name: str
    line: int
    length: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.name}: {self.length} lines"


class Source:
    """The modules of hdbench in a checkout, by dotted name."""

    def __init__(self, root: Path = REPOSITORY) -> None:
        self.text: dict[str, str] = {}
        for path in sorted((root / "hdbench").rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.text[name] = path.read_text(encoding="utf-8")
        self.tree = {name: ast.parse(text) for name, text in self.text.items()}
        self.packages = {
            ".".join(path.parent.relative_to(root).parts)
            for path in (root / "hdbench").rglob("__init__.py")
        }

    @functools.cached_property
    def imports(self) -> list[Import]:
        return [line for name in self.tree for line in self._imports_of(name)]

    @property
    def edges(self) -> set[tuple[str, str]]:
        """Pairs (importer, imported) of modules of hdbench, at any level, without repetitions."""
        pairs = {(line.importer, line.imported) for line in self.imports if _is_ours(line.imported)}
        return {(importer, imported) for importer, imported in pairs if importer != imported}

    @property
    def nested(self) -> list[Import]:
        """Imports inside functions, but those of the standard library."""
        standard = sys.stdlib_module_names
        return [x for x in self.imports if x.nested and x.imported.split(".")[0] not in standard]

    @property
    def arrows(self) -> Counter[tuple[str, str]]:
        """How many module edges there are between two different folders."""
        pairs = ((folder_of(importer), folder_of(imported)) for importer, imported in self.edges)
        return Counter((a, b) for a, b in pairs if a != b)

    @property
    def upward(self) -> list[Import]:
        """Imports of a folder that comes later in LAYERS."""
        rank = {folder: number for number, folder in enumerate(LAYERS)}
        rank["hdbench"] = -1  # its __init__ is imported by all
        ours = [line for line in self.imports if _is_ours(line.imported)]
        return [
            line
            for line in ours
            if line.importer != "hdbench.__main__"
            and rank[folder_of(line.imported)] > rank[folder_of(line.importer)]
        ]

    @property
    def circles(self) -> list[list[str]]:
        """Sets of modules that import each other, hidden imports included (strong components)."""
        targets: dict[str, list[str]] = {name: [] for name in self.tree}
        for importer, imported in sorted(self.edges):
            targets[importer].append(imported)
        return [sorted(circle) for circle in _components(targets) if len(circle) > 1]

    @functools.cached_property
    def functions(self) -> list[Function]:
        return [
            Function(module=module, name=node.name, line=node.lineno, length=_length(node))
            for module, tree in self.tree.items()
            for node in ast.walk(tree)
            if isinstance(node, FUNCTIONS)
        ]

    @property
    def lines(self) -> dict[str, int]:
        """Lines of each module."""
        return {name: text.count("\n") for name, text in self.text.items()}

    @property
    def lines_by_folder(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for name, lines in self.lines.items():
            total[folder_of(name)] += lines
        return total

    @property
    def duck_typing(self) -> Counter[str]:
        """By module, how often it asks an object for an attribute by a literal name."""
        calls = ((name, node) for name, tree in self.tree.items() for node in ast.walk(tree))
        return Counter(name for name, node in calls if _asks_for_attribute(node))

    @property
    def named_heads(self) -> Counter[str]:
        """By module, how often it asks whether a name starts with awd."""
        pattern = re.compile(r"""startswith\(\(?["']awd""")
        counts = {name: len(pattern.findall(text)) for name, text in self.text.items()}
        return Counter({name: count for name, count in counts.items() if count})

    @property
    def fillers(self) -> Counter[str]:
        """By folder, how often one of FILLERS is bound as a variable or argument."""
        counts: Counter[str] = Counter()
        for name, tree in self.tree.items():
            counts[folder_of(name)] += sum(map(_binds_filler, ast.walk(tree)))
        return counts

    def _imports_of(self, module: str) -> Iterator[Import]:
        lines = self.text[module].splitlines()
        for block, nested in _blocks(self.tree[module]):
            reason = False  # a run of imports has the reason of its first
            for node in block:
                if not isinstance(node, ast.Import | ast.ImportFrom):
                    reason = False
                    continue
                end = node.end_lineno or node.lineno
                reason = reason or any(map(REASON.search, lines[node.lineno - 1 : end]))
                for target in self._targets(module, node):
                    yield Import(
                        importer=module,
                        imported=target,
                        line=node.lineno,
                        nested=nested,
                        reason=reason,
                    )

    def _targets(self, module: str, node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        base = node.module or ""
        if node.level:
            parents = module.split(".")
            up = node.level - (module in self.packages)
            base = ".".join([*parents[: len(parents) - up], *([base] if base else [])])
        names = [f"{base}.{alias.name}" for alias in node.names]
        return sorted({name if name in self.tree else base for name in names})


def folder_of(module: str) -> str:
    """`report` of `hdbench.report.figures.style`; `hdbench` of the files beside the folders."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else parts[0]


def folders_of(modules: Iterable[str]) -> Counter[str]:
    """How many of the modules are in each folder."""
    return Counter(map(folder_of, modules))


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "hdbench"


def _blocks(tree: ast.Module) -> Iterator[tuple[list[ast.stmt], bool]]:
    """Every list of statements, and whether it is inside a function."""

    def visit(node: ast.AST, nested: bool) -> Iterator[tuple[list[ast.stmt], bool]]:
        nested = nested or isinstance(node, FUNCTIONS)
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield value, nested
        for child in ast.iter_child_nodes(node):
            yield from visit(child, nested)

    return visit(tree, False)


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _asks_for_attribute(node: ast.AST) -> bool:
    """hasattr(x, ...) or getattr(x, "literal", ...)."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    literal = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    return node.func.id == "hasattr" or (node.func.id == "getattr" and literal)


def _binds_filler(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return isinstance(node.ctx, ast.Store) and node.id in FILLERS
    return isinstance(node, ast.arg) and node.arg in FILLERS


def _components(targets: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected components, by reachability: a few hundred modules at most."""
    reachable: dict[str, set[str]] = {}
    for start in targets:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for target in targets.get(stack.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
        reachable[start] = seen
    components: dict[frozenset[str], list[str]] = {}
    for name, seen in reachable.items():
        mutual = {other for other in seen if name in reachable.get(other, ())}
        components[frozenset(mutual | {name})] = sorted(mutual | {name})
    return list(components.values())


def main(root: Path) -> None:
    source = Source(root)
    folders = source.lines_by_folder
    silent = [line.importer for line in source.nested if not line.reason]
    arrows = source.arrows
    print(f"modules {len(source.tree)}, lines {sum(folders.values())}")
    print("lines by folder: " + ", ".join(f"{folder} {folders[folder]}" for folder in LAYERS))
    print(f"edges between modules {len(source.edges)}")
    print(f"edges between folders {sum(arrows.values())}, pairs of folders {len(arrows)}")
    _report("imports of a later folder", source.upward)
    _report("circles", source.circles)
    print(f"imports in functions {len(source.nested)}")
    print("longest modules:")
    for name, lines in Counter(source.lines).most_common(8):
        print(f"  {name}: {lines} lines")
    _report("longest functions", sorted(source.functions, key=lambda f: -f.length)[:8])
    print("what tests/unit/test_architecture.py forbids, by folder:")
    for title, counts in {
        "imports in functions without a reason": folders_of(silent),
        "modules over 400 lines": folders_of(n for n, lines in source.lines.items() if lines > 400),
        "functions over 60 lines": folders_of(f.module for f in source.functions if f.length > 60),
        "attributes asked for by name": folders_of(source.duck_typing.elements()),
        "heads known by name": folders_of(source.named_heads.elements()),
        "filler names": +source.fillers,
    }.items():
        print(f"  {title} {counts.total()}: {dict(counts.most_common())}")


def _report(title: str, items: list) -> None:
    print(f"{title}: {len(items)}")
    for item in items:
        print(f"  {item}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY)
