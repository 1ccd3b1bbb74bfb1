"""The command line: a verb is a typed function, imported when it is asked for.

Nothing here imports torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from minusface import __version__
from minusface.errors import MinusfaceError, choice_error
from minusface.waiting import wait_briefly

USAGE_ERROR = 2
INTERRUPTED = 130
FIRST_SPEAKS = 2.0


class Verb(NamedTuple):
    """One command."""

    where: str
    """``module:function`` in :mod:`minusface.commands`."""
    summary: str
    positional: tuple[str, ...] = ()
    """Parameters that stand without a flag."""


VERBS = {
    "demo": Verb("demo:demo", "the whole journey on one photo, with a report to look at"),
    "protect": Verb("protect:protect", "photos or crops to protected images", ("inputs",)),
    "verify": Verb(
        "verify:verify", "the same person? two photos here, or one at a server", ("first", "second")
    ),
    "train": Verb("train:train", "train a baseline, stage 1 or stage 2 from a YAML file"),
    "evaluate": Verb(
        "evaluate:evaluate", "accuracy of models on pairs or benchmarks", ("checkpoints",)
    ),
    "calibrate": Verb(
        "calibrate:calibrate", "measure a checkpoint's thresholds, into its card", ("checkpoint",)
    ),
    "pack": Verb("pack:pack", "a checkpoint made small, to give away", ("checkpoint",)),
    "migrate": Verb(
        "migrate:migrate",
        "a gallery of the teacher's embeddings to ours, without photos",
        ("teacher",),
    ),
    "export": Verb(
        "export:export", "a checkpoint to ONNX: a client's half and a server's", ("checkpoint",)
    ),
    "audit": Verb("audit:audit", "what leaks anyway: attackers, controls, a report"),
    "enroll": Verb("client:enroll", "a person at a server, from photos", ("person", "photos")),
    "identify": Verb("client:identify", "who is it? asked of a server", ("photo",)),
    "erase": Verb("client:erase", "a person at a server, for good", ("person",)),
    "serve": Verb("serve:serve", "the recognition service over HTTP", ("model",)),
    "keys": Verb("serve:keys", "API keys of a service: add, list, revoke", ("action",)),
    "index": Verb(
        "index:index", "galleries: counted, exported, imported, moved", ("action", "place")
    ),
    "data": Verb("data:data", "inspect, convert, align and split face datasets"),
    "import-tface": Verb(
        "tface:import_tface",
        "a checkpoint of the reference implementation to ours",
        ("checkpoint",),
    ),
    "export-tface": Verb(
        "tface:export_tface",
        "a checkpoint of ours to the reference implementation's",
        ("checkpoint",),
    ),
    "inspect": Verb(
        "inspect:inspect", "what a checkpoint, a face folder or an image holds", ("path",)
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Bad input and a full disk are told in one line on stderr; with ``MINUSFACE_DEBUG=1`` in the
    environment the traceback is shown instead.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wait_briefly()
    # Of what it cannot decode OpenCV would tell in lines of its own, beside ours. Read when it is loaded.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # Names of files need not be text: what cannot be written is told in escapes.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _dispatch(arguments)
        # Here rather than at exit, where a reader that left could no longer be handled.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence()
        return 0
    except (MinusfaceError, OSError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, MinusfaceError | OSError) or _full(error)):
            raise
        if os.environ.get("MINUSFACE_DEBUG", "0") not in ("", "0"):
            raise
        return _fail(error)
    except KeyboardInterrupt:
        print("\nminusface: stopped", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else USAGE_ERROR if error.code else 0


def run() -> None:
    """Entry point of the installed command."""
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Torch keeps gloo's threads although their group is destroyed. If one of them lets go of a tensor
        # while the interpreter is taken down, the process aborts, and torchrun starts all of them anew.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def usage() -> str:
    """The top-level help."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: minusface COMMAND ...\n\n"
        "Privacy-preserving face recognition: the photo stays, a noise-like image is recognised.\n\n"
        f"{verbs}\n\n"
        "minusface COMMAND --help tells about one; --version prints the version.\n"
        "Start with: minusface demo"
    )


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(f"minusface {__version__}")
        return 0
    if name not in VERBS:
        raise choice_error("command", name, VERBS)
    module, _, function_name = VERBS[name].where.partition(":")
    function = getattr(importlib.import_module(f"minusface.commands.{module}"), function_name)
    # A verb whose flags are not its parameters brings a parser of its own.
    own = getattr(function, "parse", None)
    if own is not None:
        options = own(rest)
    else:
        from minusface.arguments import parse

        options = parse(f"minusface {name}", function, VERBS[name].positional, rest)
    return 0 if options is None else int(function(**options) or 0)


def _fail(error: BaseException) -> int:
    if os.environ.get("RANK", "0") != "0":
        # What all processes of a training stumble on, the first one tells, and torchrun ends the others.
        time.sleep(FIRST_SPEAKS)
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and not isinstance(error, MinusfaceError):
        named = f"{error.filename}: " if error.filename else ""
        message = f"{named}{error.strerror or message}"
    elif _full(error):
        message = f"out of memory; smaller batches need less ({message})"
    print(f"minusface: {message or type(error).__name__}", file=sys.stderr)
    return USAGE_ERROR


def _full(error: BaseException) -> bool:
    """Whether memory was missing: torch says so by a RuntimeError, of its own kind on a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _silence() -> None:
    """The reader left, as `head` does: nothing is left to say, at exit neither."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
