"""The command line: a verb is a typed function, imported when it is asked for.

A function's signature gives the flags, its docstring the help. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from minusface import __version__
from minusface.errors import MinusfaceError, choice_error

# verb: (module:function, summary, positional arguments, needs much memory)
VERBS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "demo": ("demo:demo", "the whole journey on one photo, with a report to look at", ()),
    "protect": ("protect:protect", "photos or crops to protected images", ("inputs",)),
    "train": (
        "train:train",
        "train a recogniser, stage 1 or stage 2 from a YAML file",
        ("config",),
    ),
    "evaluate": (
        "evaluate:evaluate",
        "accuracy of checkpoints on a list of pairs",
        ("checkpoints",),
    ),
    "inspect": ("inspect:inspect", "what a checkpoint, a face folder or an image holds", ("path",)),
}
USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 2 for bad input (one line on stderr), 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except (MinusfaceError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader left, as `head` does; nothing is left to say.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        if os.environ.get("MINUSFACE_DEBUG"):
            raise
        return _fail(_one_line(error))
    except KeyboardInterrupt:
        print("minusface: stopped", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else USAGE_ERROR


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, *rest = arguments
    if verb in ("-V", "--version"):
        print(f"minusface {__version__}")
        return 0
    if verb not in VERBS:
        raise choice_error("command", verb, VERBS)
    where, _, positional = VERBS[verb]
    module, name = where.split(":")
    function = getattr(importlib.import_module(f"minusface.commands.{module}"), name)
    options = parse(verb, function, positional, rest)
    if options is None:
        return 0
    return int(function(**options) or 0)


def usage() -> str:
    """The top-level help."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, (_, summary, _) in VERBS.items())
    return (
        "usage: minusface COMMAND ...\n\n"
        "Privacy-preserving face recognition: the photo stays, a noise-like image is recognised.\n\n"
        f"{verbs}\n\n"
        "minusface COMMAND --help tells about one; --version prints the version.\n"
        "Start with: minusface demo"
    )


def parse(
    verb: str, function: Callable[..., Any], positional: Sequence[str], arguments: list[str]
) -> dict[str, Any] | None:
    """Keyword arguments of a verb's function from its command line; None after printing help.

    Raises:
        MinusfaceError: an unknown flag (the nearest is named), a missing or ill-typed value.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    if hasattr(function, "parse"):
        parsed: dict[str, Any] | None = function.parse(arguments)
        return parsed
    parser = ArgumentParser(prog=f"minusface {verb}", exit_on_error=False)
    parser.description = inspect.getdoc(function)
    skip: set[str | int] = set(positional)
    for name in positional:
        parameter = inspect.signature(function).parameters[name]
        many = "list" in str(parameter.annotation)
        parser.add_argument(name, nargs="+" if many else None, type=str, help="see above")
    parser.add_function_arguments(function, skip=skip)
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return None
    try:
        namespace = parser.parse_args(_flags(function, arguments))
    except ArgumentError as error:
        known = [f"--{name}" for name in inspect.signature(function).parameters if name not in skip]
        raise explain(error, arguments, known) from error
    return {
        key: value for key, value in vars(namespace).items() if key != "config" or "config" in skip
    }


def _flags(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """Let ``--json`` stand alone for booleans: jsonargparse wants ``--json true``."""
    booleans = {
        f"--{name.replace('_', '-')}"
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.annotation in (bool, "bool")
    }
    result = []
    for number, argument in enumerate(arguments):
        following = arguments[number + 1] if number + 1 < len(arguments) else ""
        name, equals, value = argument.partition("=")
        # Both --all-faces and --all_faces are understood.
        flag = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
        result.append(
            "--" + flag[2:].replace("-", "_") + equals + value if name[:2] == "--" else argument
        )
        if flag in booleans and not equals and following.lower() not in ("true", "false"):
            result.append("true")
    return result


def explain(error: Exception, arguments: Sequence[str], known: Sequence[str]) -> MinusfaceError:
    """An argument error in one line, naming the nearest flag where one is unknown."""
    text = _one_line(error)
    if "unrecognized arguments" in text or "not accepted" in text:
        words = [word.split("=")[0] for word in arguments if word.startswith("--")]
        unknown = [
            word
            for word in words
            if word.replace("-", "_") not in {k.replace("-", "_") for k in known}
        ]
        if unknown:
            return choice_error("option", unknown[0], known)
    return MinusfaceError(text)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _fail(message: str) -> int:
    print(f"minusface: {message}", file=sys.stderr)
    return USAGE_ERROR


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
