"""Registries: built-in classes and those of installed packages, whose mistakes are sentences."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import pytest

from hdbench.core.config import Config
from hdbench.core.errors import UserError
from hdbench.core.registry import Registry
from hdbench.methods.discriminators.base import Head, constructor_problem
from hdbench.methods.discriminators.pooled import Pooled


class Shape(ABC):
    name: ClassVar[str]

    @abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    name = "square"

    def area(self) -> float:
        return 1.0


class Settings(Config):
    name: Literal["settings"] = "settings"


GROUP = "hdbench_test.shapes"
MODULE = """
from tests.unit.test_registry import Shape, Square
class Circle(Shape):
    name = "circle"
    def area(self): return 3.0
class Blob(Shape):
    name = "blob"
    def area(self): return 2.0
class Clash(Circle):
    name = "square"
class Half(Shape):
    name = "half"
class Nameless(Shape):
    def area(self): return 0.0
number = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with these entry points onto the path."""

    def install(
        points: dict[str, str], name: str = "shapes-extension", module: str = MODULE
    ) -> None:
        folder = tmp_path / name
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[{GROUP}]", *(f"{key} = {value}" for key, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (folder / f"{name.replace('-', '_')}.py").write_text(module)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name.replace("-", "_"), raising=False)

    return install


def registry() -> Registry[Shape]:
    return Registry(GROUP, base=Shape, builtin=[Square])


def test_a_registry_maps_names_to_classes():
    shapes = registry()
    assert dict(shapes) == {"square": Square}
    assert len(shapes) == 1 and "circle" not in shapes
    assert shapes.origins == {"square": "hdbench"}
    with pytest.raises(KeyError):
        shapes["circle"]


def test_the_name_of_a_configuration_is_the_default_of_its_field():
    class Bare(Config):
        name: Literal["bare"]

    assert list(Registry("hdbench_test.configs", Config, [Settings, Bare])) == ["settings", "bare"]


def test_entry_points_come_after_the_built_in_classes_by_name_and_once(install):
    install({"1": "shapes_extension:Circle", "2": "shapes_extension:Blob"})
    shapes = registry()
    assert list(shapes) == ["square"]  # making one loads nothing
    assert list(shapes.load()) == ["square", "blob", "circle"]
    assert shapes.origins["blob"] == "shapes-extension"
    circle = shapes["circle"]
    assert shapes.load()["circle"] is circle and len(shapes) == 3


def test_a_name_that_is_not_built_in_is_looked_for_among_packages(install):
    install({"circle": "shapes_extension:Circle"})
    shapes = registry()
    assert "square" in shapes and list(shapes) == ["square"]
    assert "circle" in shapes and shapes["circle"].name == "circle"
    assert "blob" not in shapes and list(shapes) == ["square", "circle"]


def test_another_group_is_not_loaded(install):
    install({"circle": "shapes_extension:Circle"})
    assert list(Registry("hdbench_test.others", Shape, [Square]).load()) == ["square"]


class Titled(ABC):
    name: ClassVar[str]
    title: ClassVar[str]
    size: ClassVar[int] = 1


TITLED = """
from tests.unit.test_registry import Titled
class Untitled(Titled):
    name = "untitled"
class Long(Titled):
    name = "long"
    title = "a long title"
"""


@pytest.mark.parametrize(
    "value, sentence",
    [
        ("shapes_extension:Untitled", "shapes_extension:Untitled lacks title; fix that package"),
        ("shapes_extension:Long", "shapes_extension:Long has too long a title; fix that package"),
    ],
)
def test_a_class_has_what_its_base_declares_and_passes_its_kinds_check(install, value, sentence):
    install({"bad": value}, module=TITLED)
    titles = Registry(
        GROUP, Titled, check=lambda cls: "has too long a title" if len(cls.title) > 9 else ""
    )
    with pytest.raises(UserError, match=sentence):
        titles.load()


@pytest.mark.parametrize(
    "value, sentence",
    [
        ("shapes_extension:Clash", "the name 'square' is taken by a class of hdbench; rename one"),
        ("shapes_extension:number", "is not a class derived from tests.unit.test_registry.Shape"),
        ("shapes_extension:Half", "lacks area"),
        ("shapes_extension:Nameless", "has no name"),
        ("shapes_extension:Absent", "cannot be imported (AttributeError: "),
        ("missing_module:Circle", "cannot be imported (ModuleNotFoundError: "),
    ],
)
def test_a_mistake_of_a_package_names_it_and_leaves_the_registry_as_it_was(
    install, value, sentence
):
    install({"bad": value, "good": "shapes_extension:Blob"})
    shapes = registry()
    for _ in range(2):  # the second time too: a failed load is no load
        with pytest.raises(UserError) as error:
            shapes.load()
        assert sentence in str(error.value)
        assert f"{GROUP}: entry point 'bad' of shapes-extension: " in str(error.value)
        assert "uninstall shapes-extension" in str(error.value)
        assert "\n" not in str(error.value)
        assert dict(shapes) == {"square": Square}


def test_two_packages_with_one_name_are_a_mistake(install):
    install({"circle": "shapes_extension:Circle"})
    install({"circle": "second_extension:Circle"}, "second-extension")
    with pytest.raises(UserError, match="'circle' is taken by a class of s"):
        registry().load()


def test_a_module_that_raises_is_a_mistake_of_its_package(install):
    install({"circle": "shapes_extension:Circle"}, module="raise RuntimeError('no such device')")
    with pytest.raises(UserError, match="RuntimeError: no such device"):
        registry().load()


def test_add_takes_the_same_class_twice_and_no_other_of_its_name():
    shapes = registry()
    assert shapes.add(Square) is Square and len(shapes) == 1
    with pytest.raises(UserError, match="'square' is taken"):
        shapes.add(type("Other", (Square,), {}))


def test_importing_the_registry_loads_no_framework():
    code = "import sys, hdbench.core.registry; assert not {'torch', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_head_has_a_forward_and_the_constructor_of_heads():
    class Mute(Head):
        name = "mute"

    class Wide(Pooled):
        def __init__(self, layers, width, grid, hidden, extra): ...

    assert constructor_problem(Pooled) == ""
    assert "where a head takes (layers, width, grid, hidden)" in constructor_problem(Wide)
    with pytest.raises(TypeError, match="abstract method '?forward"):
        Mute()
