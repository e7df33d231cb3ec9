"""Figures of the code's structure: `python tests/measure/structure.py`."""

import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cascade", "stages", "data")


def main() -> None:
    """Print one line per figure."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    constructors, stages_any = [], []
    for path, tree in trees.items():
        place = path.relative_to(ROOT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                        named = part.args.args[1:] + part.args.kwonlyargs
                        constructors.append((len(named), f"{place} {node.name}"))
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
                name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
                whole = ast.unparse(node.annotation)
                if whole in ("Any", "list[Any]") and ("stage" in name or name == "pl_module"):
                    stages_any.append(f"{place}:{node.lineno} {name}: {whole}")
    names = Counter(path.name for path in files if not path.name.startswith("__"))
    shared = sorted(name for name, count in names.items() if count > 1)
    kinds = {
        name: sum(isinstance(node, ast.ClassDef) for node in trees[ROOT / "stages" / name].body)
        for name in ("base.py", "ssr.py", "tsr.py")
    }
    flat = sorted(path.name for path in (ROOT / "data").glob("*.py"))
    rows = {
        "files at the root of data/": ", ".join(flat),
        "annotations Any for stages": f"{len(stages_any)} {stages_any}",
        "classes per stage kind": kinds,
        "longest constructors": sorted(constructors, reverse=True)[:5],
        "file names that two product files share": shared,
    }
    for name, value in rows.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
