"""Programs that measure are run by hand, so at least what they import must be there."""

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def names_of(module):
    """The names that a module of ours has, read from its source."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text())
    found = {one.stem for one in path.parent.iterdir()} if path.stem == "__init__" else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {one.asname or one.name for one in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("[!t]*.py")))
def test_every_program_finds_what_it_imports(name):
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(
            ("cascade", "stages", "data.")
        ):
            missing = {one.name for one in node.names} - names_of(node.module)
            assert not missing, f"{node.module} has no {missing}"
