"""From a typed function to a command line: its signature gives the flags, its docstring the help.

Nothing here imports torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from minusface.errors import MinusfaceError, choice_error

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

HELP = frozenset({"-h", "--help"})
# A line of the Args section: a name at its indentation, then words.
ARGUMENT = re.compile(r"^    (\w+): (.*)$")


def parse(
    prog: str, function: Callable[..., Any], positional: Sequence[str], arguments: Sequence[str]
) -> dict[str, Any] | None:
    """Keyword arguments of a function from a command line; None after printing its help.

    Booleans are switches (``--json``, ``--no-flip``, also ``--flip false``); ``--all-faces`` and
    ``--all_faces`` are the same.

    Args:
        prog: the command's name, for the help.
        function: typed, with an ``Args`` section in its docstring.
        positional: names of parameters that stand without a flag; a list takes all there are.
        arguments: what came after the command's name.

    Raises:
        MinusfaceError: an unknown flag (the nearest is named), a missing or ill-typed value.
    """
    from jsonargparse import ArgumentError

    parser = build_parser(prog, function, positional)
    if HELP & set(arguments):
        parser.print_help()
        return None
    names = [n for n in inspect.signature(function).parameters if n not in positional]
    try:
        found = parser.parse_args(_normalised(function, names, arguments))
    except ArgumentError as error:
        raise MinusfaceError(f"{tidy(error, names)} (see {prog} --help)") from error
    return dict(vars(found))


def build_parser(
    prog: str, function: Callable[..., Any], positional: Sequence[str]
) -> ArgumentParser:
    """The parser of a typed function."""
    from jsonargparse import ActionYesNo, ArgumentParser

    description, helps = split_docstring(inspect.getdoc(function) or "")
    hints = typing.get_type_hints(function)
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, words = hints[name], helps[name]
        many = list in (typing.get_origin(hint), *map(typing.get_origin, typing.get_args(hint)))
        flag = flag_of(name)
        required = parameter.default is inspect.Parameter.empty
        if name in positional:
            count = ("+" if required else "*") if many else (None if required else "?")
            parser.add_argument(name, nargs=count, type=str, help=words)
        elif hint is bool and parameter.default:
            yes_no = ActionYesNo(no_prefix="no-")
            parser.add_argument(flag, action=yes_no, default=True, help=words)
        elif hint is bool:
            parser.add_argument(flag, action="store_true", help=words)
        elif many:
            parser.add_argument(flag, action="append", type=str, help=words)
        elif required:
            parser.add_argument(flag, type=hint, required=True, help=words)
        else:
            parser.add_argument(flag, type=hint, default=parameter.default, help=words)
    return parser


def flag_of(name: str) -> str:
    """``all_faces`` to ``--all-faces``."""
    return "--" + name.replace("_", "-")


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says before its ``Args``, and its words on each argument."""
    description, _, section = text.partition("\nArgs:\n")
    helps: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        found = ARGUMENT.match(line)
        if found:
            name, helps[found[1]] = found[1], found[2]
        elif name and line.startswith("     "):
            helps[name] += " " + line.strip()
        else:
            break
    # A percent sign is argparse's own.
    return description.strip(), {key: words.replace("%", "%%") for key, words in helps.items()}


def _normalised(
    function: Callable[..., Any], names: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """Arguments with flags spelled one way and booleans as switches.

    Raises:
        MinusfaceError: an unknown flag.
    """
    hints = typing.get_type_hints(function)
    switches = {flag_of(name) for name in names if hints[name] is bool}
    known = [flag_of(name) for name in names]
    result: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            result.append(argument)
            continue
        name, equals, value = argument.partition("=")
        flag = name.replace("_", "-")
        negative = flag.startswith("--no-") and "--" + flag[5:] in switches
        if flag not in known and not negative:
            raise choice_error("option", name, known)
        if flag not in switches:
            result.append(flag + equals + value)
            continue
        if not equals and rest and rest[0].lower() in ("true", "false"):
            value = rest.pop(0)
        result += _switch(function, flag, value)
    return result


def _switch(function: Callable[..., Any], flag: str, value: str) -> list[str]:
    """A boolean's switch as its parser knows it; nothing where it asks for the default."""
    if value.lower() not in ("", "true", "false"):
        raise MinusfaceError(f"{flag}: expected true or false, got {value!r}")
    wanted = value.lower() != "false"
    default = inspect.signature(function).parameters[flag[2:].replace("-", "_")].default
    if wanted == default:
        return []
    return [flag] if wanted else ["--no-" + flag[2:]]


def tidy(error: Exception, names: Sequence[str] = ()) -> str:
    """What jsonargparse says in several lines, in one and in the user's words."""
    text = " ".join(str(error).split())
    missing = re.fullmatch(r"the following arguments are required: (.*)", text)
    if missing:
        said = [flag_of(n) if n in names else n.upper() for n in missing[1].split(", ")]
        return f"missing {', '.join(said)}"
    key = re.match(r'Parser key "([^"]+)": (.*)', text)
    where, text = (key[1], key[2]) if key else ("", text)
    union = re.search(r"Subtypes: \[(.*?)\] Errors: .* Given value: (.*)", text)
    plain = re.fullmatch(r"Expected an? (.*?)\.? Got value: (.*)", text)
    found = union or plain
    if found:
        text = f"expected {_type_words(found[1])}, got {found[2]!r}"
    flag = flag_of(where) if where in names else where
    return f"{flag}: {text}" if where else text


def _type_words(text: str) -> str:
    """``<class 'int'>, <class 'NoneType'>`` to ``int or null``; the choices of a Literal."""
    choices = re.fullmatch(r"typing\.Literal\[(.*)\]", text)
    if choices:
        return "one of " + choices[1].replace("'", "")
    words = re.findall(r"<class '(\w+)'>", text)
    if not words:
        return text
    plain = {"NoneType": "null", "str": "text", "float": "a number", "int": "a whole number"}
    plain |= {"tuple": "a list", "bool": "true or false"}
    return " or ".join(plain.get(word, word) for word in words)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
