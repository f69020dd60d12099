"""The gallery: five of the scripts trained for longer, and what gradpath finds in them.

`make gallery` trains them under `gradpath run`, unedited, and writes the reports to runs/gallery, a
picture of each and what was found to docs/gallery, and from that alone the page docs/gallery.md.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from gradpath import report
from gradpath.diagnostics.findings import Diagnosis
from gradpath.probes import Run
from tests.package import ROOT

SCRIPTS = ROOT / "tests" / "external" / "scripts"
REPORTS = ROOT / "runs" / "gallery"
PICTURES = ROOT / "docs" / "gallery"
FOUND = PICTURES / "found.json"
PAGE = ROOT / "docs" / "gallery.md"
LARGEST_PICTURE = 150_000  # bytes


@dataclass(frozen=True)
class Exhibit:
    """A training of the gallery.

    Attributes:
        title: of its part of the page.
        steps: what the script is given as its argument.
        trained: in a sentence, with what its terms are.
        codes: of the findings that are told first, if they were found.
        figure: of the report, for the picture.
    """

    title: str
    steps: int
    trained: str
    codes: tuple[str, ...]
    figure: str


EXHIBITS = {
    "deepxde_burgers": Exhibit(
        "Burgers' equation with DeepXDE",
        2000,
        "A network for Burgers' equation, with Adam and then with L-BFGS. `losses[0]` is the "
        "residual, `losses[1]` the walls with a weight of 10, `losses[2]` the initial condition "
        "with a weight of 100.",
        ("GP202", "GP302"),
        "alignment",
    ),
    "deepxde_inverse": Exhibit(
        "An inverse problem with DeepXDE",
        2000,
        "The rate of a decay is trained together with the solution, by Adam with a learning rate "
        "of 0.01. `losses[0]` is the residual, `losses[1]` the initial condition, `losses[2]` what "
        "was observed.",
        ("GP312", "GP504"),
        "stiffness",
    ),
    "uncertainty_weights": Exhibit(
        "Two tasks, weighted by their uncertainty",
        3000,
        "The weights of two tasks are trained as well, after Kendall et al. (2018); targets are "
        "random, and the network learns them by heart.",
        ("GP301", "GP302"),
        "weights",
    ),
    "gan": Exhibit(
        "A generative adversarial network",
        3000,
        "Two models with an optimizer each, which gradpath tells apart as two parts of one run.",
        ("GP201", "GP102"),
        "losses",
    ),
    "gpt": Exhibit(
        "A small language model with an auxiliary loss",
        1500,
        "A transformer with two blocks that continues arithmetic progressions; its z-loss, with a "
        "weight of 0.0001, is to keep the logits small and nothing more.",
        ("GP101", "GP331"),
        "imbalance",
    ),
}


@dataclass(frozen=True)
class Sentence:
    """A finding in gradpath's words; without a code, the verdict on the whole."""

    code: str
    severity: str
    verdict: str


@dataclass(frozen=True)
class Exhibited:
    """What was found in one training.

    Attributes:
        sentences: two that are told.
        other_codes: of findings that are not.
    """

    sentences: tuple[Sentence, ...]
    other_codes: tuple[str, ...]


def main() -> None:
    """Trains, and writes the reports, the pictures and the page."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    found = {}
    for script, exhibit in EXHIBITS.items():
        print(f"{script}, {exhibit.steps} steps", flush=True)
        train(script, exhibit.steps)
        for kind in ("html", "pdf"):
            report(REPORTS / script, REPORTS / f"{script}.{kind}")
        found[script] = exhibited(Run(REPORTS / script).diagnosis(), exhibit.codes)
        picture = pictured(REPORTS / f"{script}.html", exhibit.figure)
        (PICTURES / f"{script}.png").write_bytes(picture)
    everything = {
        "versions": {
            "Python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "deepxde")},
        },
        "found": {script: asdict(one) for script, one in found.items()},
    }
    FOUND.write_text(json.dumps(everything, indent=1) + "\n")
    PAGE.write_text(page(everything))
    print(f"The reports are in {REPORTS}.")


def train(script: str, steps: int) -> None:
    """Runs a script as the page says, in a folder of its own."""
    folder = REPORTS / script
    shutil.rmtree(folder, ignore_errors=True)
    with TemporaryDirectory() as elsewhere:  # where the script leaves its files
        subprocess.run(
            [sys.executable, "-m", *_command(script, steps, str(folder), str(SCRIPTS))],
            cwd=elsewhere,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def _command(script: str, steps: int, folder: str, scripts: str) -> Sequence[str]:
    options = ["--instruments", "full", "--run", folder]
    return ["gradpath", "run", *options, f"{scripts}/{script}.py", str(steps)]


def exhibited(diagnosis: Diagnosis, codes: Sequence[str]) -> Exhibited:
    """Returns what is told of a diagnosis.

    The findings with these codes; for each that is not there the gravest of another code, and if
    there is no more of these, the verdict on the whole.
    """
    first = {each.code: each for each in reversed(diagnosis.findings)}
    order = [*codes, *(each.code for each in diagnosis.findings)]
    told = list(dict.fromkeys(code for code in order if code in first))[: len(codes)]
    sentences = [Sentence(code, first[code].severity, first[code].verdict) for code in told]
    if len(told) < len(codes):
        sentences.append(Sentence("", "", diagnosis.verdict))
    return Exhibited(tuple(sentences), tuple(sorted(set(first) - set(told))))


def pictured(report: Path, figure: str) -> bytes:
    """Returns the head of a report with its verdict, and one of its figures, as a PNG."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 920, "height": 100})
        opened.goto(report.as_uri())
        opened.evaluate(
            """figure => {
                const shown = ['header h1', 'header dl', '.verdict', figure];
                const parts = shown.map(each => document.querySelector(each));
                const main = document.querySelector('main');
                main.replaceChildren(...parts);
                document.body.replaceChildren(main);
                main.style.padding = '16px 0 0';
            }""",
            f"#figure-{figure}",
        )
        taken = Image.open(BytesIO(opened.screenshot(full_page=True))).convert("RGB")
        browser.close()
    few = taken.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    written = BytesIO()
    few.save(written, "PNG", optimize=True)
    picture = written.getvalue()
    if len(picture) > LARGEST_PICTURE:
        raise SystemExit(f"The picture of {report} has {len(picture)} bytes: show another figure.")
    return picture


def page(everything: Mapping[str, object]) -> str:
    """Returns the page on what was found.

    Args:
        everything: as `main` writes it to docs/gallery/found.json.
    """
    versions, found = everything["versions"], everything["found"]
    assert isinstance(versions, Mapping)
    assert isinstance(found, Mapping)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return HEAD.format(versions=named) + "".join(_part(each, found[each]) for each in EXHIBITS)


HEAD = """\
# Gallery: five reports

Scripts of `tests/external`, which know nothing of gradpath ([compatibility.md](compatibility.md)), trained for longer than in the tests, with {versions}. `make gallery` trains them and writes their reports to `runs/gallery`, the pictures, and this page. What gradpath found is told in its own words; [findings.md](findings.md) explains the codes.
"""  # noqa: E501


def _part(script: str, found: Mapping[str, object]) -> str:
    exhibit = EXHIBITS[script]
    sentences, others = found["sentences"], found["other_codes"]
    assert isinstance(sentences, Sequence)
    assert isinstance(others, Sequence)
    told = [f"- {_label(each)}: {each['verdict']}\n" for each in sentences]
    return PART.format(
        title=exhibit.title,
        trained=exhibit.trained,
        command=" ".join(_command(script, exhibit.steps, f"runs/{script}", SCRIPTS_AS_TOLD)),
        script=script,
        told="".join(told),
        others=f"\nAlso in the report: {', '.join(others)}.\n" if others else "",
    )


def _label(sentence: Mapping[str, str]) -> str:
    return f"{sentence['code']} ({sentence['severity']})" if sentence["code"] else "on the whole"


SCRIPTS_AS_TOLD = SCRIPTS.relative_to(ROOT).as_posix()

PART = """
## {title}

{trained}

```sh
{command}
```

![The verdict of the report, and one of its figures](gallery/{script}.png)

What gradpath found:

{told}{others}"""


if __name__ == "__main__":
    main()
