"""Validated, frozen configuration, whose errors name file, key, value and the nearest valid key."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag, ValidationError

from hdbench.core.errors import UserError
from hdbench.core.files import expanded


def check_identifier(name: str, source: str) -> None:
    """UserError for what is no name of an arm or of a suite."""
    if not IDENTIFIER.fullmatch(name):
        raise UserError(
            f"{source}: {name!r} is no name; use 1 to 64 letters without accents, digits and "
            "_ . + -, and begin with a letter or a digit"
        )
    if name.lower() in MISSING_NAMES:
        raise UserError(f"{source}: tables read {name!r} as a missing value; choose another name")


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    # keys of a file that are consumed before it is validated
    directives: ClassVar[tuple[str, ...]] = ()


# names of arms and of suites' files: they become folders, columns and words of a command
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
MISSING_NAMES = ("nan", "na", "null", "none")  # which tables read as no value

Fraction = Annotated[float, Field(ge=0, le=1)]
OUTSIDE = "outside"
UserPath = Annotated[str, AfterValidator(expanded)]
# a path of the user's, or a glob, whose content belongs to what is made from it
OutsidePath = Annotated[UserPath, OUTSIDE]

C = TypeVar("C", bound=Config)
_WORDS = {
    "Input should be": "must be",
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid array": "a list",
    "an object": "a mapping of keys to values",
}


def nearest(word: Any, choices: Iterable[str]) -> str:
    """'; did you mean X?' or the list of choices, to end a sentence with."""
    choices = sorted(map(str, choices))
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(choices)}"


def validate(model: type[C], data: Any, source: str, under: tuple[str, ...] = ()) -> C:
    """`model` from plain data, or a UserError that names source, key, value and nearest choice.

    `under` is where in the source the data is, the first part of every key in the sentence.
    """
    try:
        text = json.dumps(data, default=str)
    except (ValueError, RecursionError):
        raise UserError(f"{source}: refers to itself; write the value out") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        deepest = _deepest(error)
        missing = [e for e in error.errors() if e["type"] == "missing"]
        if deepest["type"] == "missing" and len(missing) > 1:
            keys = [".".join((*under, *_walk(model, e["loc"])[0])) for e in missing]
            raise UserError(f"{source}: {', '.join(keys)}: these are missing; add them") from None
        raise UserError(f"{source}: {_sentence(model, deepest, under)}") from None


def _deepest(error: ValidationError) -> Any:
    """Of a union's alternatives, an unknown key says most, then the error that got furthest."""
    return max(error.errors(), key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))


def _sentence(model: type[Config], error: dict[str, Any], under: tuple[str, ...]) -> str:
    keys, owner = _walk(model, error["loc"])
    where = ".".join((*under, *keys))
    value = json.dumps(error["input"], default=str)
    text = error["msg"]
    if len(value) > 80:
        value = value[:77] + "..."
    if error["type"] == "extra_forbidden":
        choices = (*owner.model_fields, *owner.directives) if owner else ()
        return f"{where} = {value}: unknown key" + nearest(keys[-1], choices)
    if error["type"] == "missing":
        kind = "key" if isinstance(error["loc"][-1], str) else "item"
        return f"{where}: this {kind} is missing; add it"
    if error["type"] == "union_tag_not_found":
        return f"{where}.name: this key is missing; add it"
    if error["type"] in ("literal_error", "union_tag_invalid"):
        context = error["ctx"]
        if error["type"] == "literal_error":
            key, word, expected = where, error["input"], context["expected"]
        else:
            key, word, expected = f"{where}.name", context["tag"], context["expected_tags"]
        choices = [choice for choice in expected.split("'") if choice.strip(" ,") not in ("", "or")]
        return f"{key} = {json.dumps(word, default=str)}: unknown" + nearest(word, choices)
    if error["type"] == "value_error":
        # of a model's own validator; its sentence may start with the key at fault
        text = text.removeprefix("Value error, ")
        if re.match(r"[a-z0-9_.]+ = ", text):
            return f"{where}.{text}" if where else text
    if error["type"] == "too_short":
        least = error["ctx"]["min_length"]
        text = f"must have at least {least} {'entry' if least == 1 else 'entries'}"
    wants_number = error["type"] in ("float_type", "int_type")
    if wants_number and isinstance(error["input"], str) and re.match(r"[-+]?\d", error["input"]):
        text += "; this is a text, write a number such as 1000 or 1e-3"
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return f"{where} = {value}: {text}"


def _walk(model: type[Config], location: tuple) -> tuple[list[str], type[Config] | None]:
    """The keys of the file, without pydantic's names of union members; the model of the last."""
    keys = []
    owner = None
    current: Any = model
    for step in location:
        models = list(_models(current))
        owner = next((m for m in models if step in m.model_fields), models[0] if models else None)
        if owner and step in owner.model_fields:
            current = owner.model_fields[step].annotation
        elif step in (tagged := dict(_tagged(current))):  # of a discriminated union
            current = tagged[step]
            continue
        elif step in [m.__name__ for m in models] or (
            isinstance(step, str) and step in ("int", "float", "str")
        ):
            continue
        elif not isinstance(current, type) and typing.get_origin(current) in (dict, tuple):
            current = typing.get_args(current)[typing.get_origin(current) is dict]
            owner = None
        keys.append(str(step))
    return keys, owner


def _tagged(annotation: Any) -> Iterable[tuple[str, type[Any]]]:
    """A discriminated union's alternatives by tag: a `Tag`, or the values of the field `name`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get("name")
        yield from (
            (tag, annotation)
            for tag in (typing.get_args(field.annotation) if field is not None else ())
        )
    else:
        arguments = typing.get_args(annotation)
        yield from ((tag.tag, arguments[0]) for tag in arguments if isinstance(tag, Tag))
        for argument in arguments:
            yield from _tagged(argument)


def _models(annotation: Any) -> Iterable[type[Any]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for member in typing.get_args(annotation):
            yield from _models(member)
