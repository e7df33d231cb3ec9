"""Copy the configs of a cascade to a new one: `python -m cascade.new mine --of demo`."""

import argparse
import re
import sys
from pathlib import Path

from cascade.entry import CONF, explained


def copy_cascade(name: str, of: str, conf: Path) -> list[Path]:
    """Copy the stages and the file of cascade `of`; returns the new files.

    Raises:
        ValueError: the name cannot be one, or exists; there is no cascade `of`.
    """
    known = sorted(path.stem for path in (conf / "cascade").glob("*.yaml"))
    if of not in known:
        raise ValueError(f"FROM={of}: no such cascade; there are {', '.join(known)}")
    if not re.fullmatch(r"[a-z]\w*", name):
        raise ValueError(
            f"CASCADE={name}: a cascade's name has letters, digits and _, and starts with a small "
            "letter; choose another"
        )
    stages, file = conf / "stage" / name, conf / "cascade" / f"{name}.yaml"
    if stages.exists() or file.exists():
        raise ValueError(
            f"CASCADE={name}: {stages if stages.exists() else file} exists; choose another name, "
            "or remove it"
        )
    text = (conf / "cascade" / f"{of}.yaml").read_text()
    stages.mkdir()
    for path in sorted((conf / "stage" / of).glob("*.yaml")):
        (stages / path.name).write_text(path.read_text())
    file.write_text(re.sub(rf"^name: {of}$", f"name: {name}", text, flags=re.M))
    return [*sorted(stages.iterdir()), file]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="the new cascade")
    parser.add_argument("--of", required=True, metavar="CASCADE", help="the cascade to copy")
    asked = parser.parse_args()
    with explained():
        made = copy_cascade(asked.name, asked.of, Path(CONF))
    sys.stdout.write("".join(f"{path.relative_to(Path(CONF).parent)}\n" for path in made))
    sys.stdout.write(f"edit them, then: make params CASCADE={asked.name}\n")


if __name__ == "__main__":
    main()
