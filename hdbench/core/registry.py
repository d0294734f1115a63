"""Classes of one kind by name: hdbench's own and those of installed packages (entry points)."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any, TypeVar

from hdbench.core.errors import UserError, reason

T = TypeVar("T")
OURS = "hdbench"


class Registry(Mapping[str, type[T]]):
    """The classes derived from `base`, by name: built-in ones first, then entry points by name.

    A class's name is its attribute `name`; for a configuration, the default of its field `name`.
    `load` adds the installed entry points of `group`, whose values are classes; so does asking for
    a name that is not built in.  Making a registry loads none of them, so an extension can import
    the module of its base class.  Iteration sees what is loaded.
    """

    def __init__(
        self,
        group: str,
        base: type[T],
        builtin: Iterable[type[T]] = (),
        check: Callable[[type[T]], str] = lambda cls: "",
    ) -> None:
        """`check` says what else is wrong with a class of this kind, as the rest of a sentence."""
        self.group = group
        self.check = check
        self.base = base
        self.origins: dict[str, str] = {}  # the distribution that a class comes from, by name
        self._classes: dict[str, type[T]] = {}
        self._loaded = False
        for cls in builtin:
            self.add(cls)

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            self.load()
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __repr__(self) -> str:
        return f"Registry({self.group!r}: {', '.join(self)})"

    def load(self) -> Registry[T]:
        """Add the entry points of the group, once; returns the registry.

        UserError, which names distribution and entry point, for one that cannot be imported, is
        not a complete class of this kind, or has a taken name; the registry stays as it was.
        """
        if self._loaded:
            return self
        before = dict(self._classes), dict(self.origins)
        self._loaded = True
        try:
            classes = [(self._imported(point), point) for point in self._entry_points()]
            for cls, point in sorted(classes, key=lambda pair: _name(pair[0])):
                self.add(cls, _distribution(point), f"entry point {point.name!r} of ")
        except BaseException:
            self._loaded = False
            self._classes, self.origins = before
            raise
        return self

    def union(self) -> Any:
        """The type of a field that holds any of the classes, installed ones too, by `name`."""
        from pydantic import Field  # start-up: an extension's base classes need no more than this

        classes = tuple(self.load().values())
        return typing.Annotated[typing.Union[classes], Field(discriminator="name")]  # noqa: UP007

    def add(self, cls: type[T], distribution: str = OURS, source: str = "") -> type[T]:
        """Add one class and return it; UserError if another class has its name."""
        name = _name(cls)
        if self._classes.get(name, cls) is not cls:
            raise UserError(
                f"{self.group}: {source}{distribution}: the name {name!r} is taken by a class of "
                f"{self.origins[name]}; rename one, or uninstall {distribution}"
            )
        self._classes[name] = cls
        self.origins.setdefault(name, distribution)
        return cls

    def _entry_points(self) -> list[metadata.EntryPoint]:
        return sorted(metadata.entry_points(group=self.group), key=lambda point: point.name)

    def _imported(self, point: metadata.EntryPoint) -> type[T]:
        """The class that an entry point names."""
        cls: Any = None
        try:
            cls = point.load()
            problem = self._problem(cls)
        except Exception as error:  # whatever the module of a stranger raises
            problem = f"cannot be imported ({type(error).__name__}: {reason(error)})"
        if problem:
            distribution = _distribution(point)
            raise UserError(
                f"{self.group}: entry point {point.name!r} of {distribution}: {point.value} "
                f"{problem}; fix that package, or uninstall {distribution}"
            )
        return cls

    def _problem(self, cls: Any) -> str:
        """Why an object is not a complete class of this kind; empty if it is one."""
        if self.base not in getattr(cls, "__mro__", ()):
            return f"is not a class derived from {self.base.__module__}.{self.base.__name__}"
        if inspect.isabstract(cls):
            return f"lacks {', '.join(sorted(cls.__abstractmethods__))}"
        if not _name(cls):
            return "has no name; give it `name`"
        lacking = [name for name in _declared(self.base) if name not in dir(cls)]
        return f"lacks {', '.join(lacking)}" if lacking else self.check(cls)


def _distribution(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "an unnamed distribution"


def _declared(base: type) -> list[str]:
    """The class attributes that a base declares without a value; `_name` reads `name`."""
    return [
        name
        for name, annotation in inspect.get_annotations(base).items()
        if str(annotation).startswith("ClassVar") and name != "name" and name not in dir(base)
    ]


def _name(cls: type) -> str:
    """The attribute `name` of a class; of a configuration the default or literal of its field."""
    field = getattr(cls, "model_fields", {}).get("name")
    name: Any = getattr(cls, "name", None) if field is None else field.default
    if not isinstance(name, str) and field is not None:
        name = next(iter(typing.get_args(field.annotation)), None)
    return name if isinstance(name, str) else ""
