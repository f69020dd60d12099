"""What a sweep is: its grid, the names of its members, and every mistake in its declaration."""

import json
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments.sweep_file import read_declaration, read_sweep, write_declaration
from gradpath.experiments.sweeps import Member, Sweep
from tests.package import ROOT

TOML = """
problem = "helmholtz"
models = ["M1", "M4"]
complexities = [1, 4]
seeds = 3
steps = 40000

[parameters]
k = 2

[options]
hidden = [50, 50, 50]
"""


def grid(**changed: Any) -> Sweep:
    given: dict[str, Any] = {"problem": "poisson", "models": ["M1"], "steps": 10}
    return Sweep(**(given | changed))


def test_the_grid_has_one_order_that_compares_everything_before_the_next_seed() -> None:
    sweep = grid(models=["M2", "M1"], complexities=[4, 1], seeds=[3, 0])
    assert [(m.seed, m.complexity, m.model) for m in sweep.members] == [
        (3, 4, "M2"), (3, 4, "M1"), (3, 1, "M2"), (3, 1, "M1"),
        (0, 4, "M2"), (0, 4, "M1"), (0, 1, "M2"), (0, 1, "M1"),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_grid_is_the_same_in_every_process_and_draws_no_random_number() -> None:
    state = random.getstate()
    script = (
        "from gradpath.experiments.sweeps import Sweep\n"
        "s = Sweep('poisson', models=['M1', 'M2'], complexities=[1, 2.5], seeds=2, steps=10,"
        " options={'b': 1, 'a': 'x y'})\n"
        "print('\\n'.join(m.name for m in s.members))"
    )
    names = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert names[0] == names[1]
    assert len(set(names[0].split())) == 8
    assert random.getstate() == state


def test_a_member_knows_all_that_its_training_depends_on() -> None:
    sweep = grid(problem="helmholtz", complexities=[4], parameters={"k": 2}, options={"points": 64})
    (member,) = sweep.members
    assert member == Member("helmholtz", "M1", 0, 10, 4, {"k": 2, "a2": 4}, {"points": 64})
    assert member.name == "helmholtz_k=2_a2=4_M1_points=64_steps=10_seed=0"
    assert member.metadata == {
        "problem": "helmholtz", "model": "M1", "complexity": 4, "seed": 0, "planned_steps": 10,
        "k": 2, "a2": 4, "points": 64,
    }  # fmt: skip
    again = pickle.loads(pickle.dumps(member))
    assert again == member
    assert hash(again) == hash(member)


def test_a_sweep_without_complexities_is_of_the_default_one() -> None:
    (member,) = grid(problem="helmholtz", parameters={"a1": 2}).members
    assert (member.complexity, member.parameters["a2"]) == (4, 4)
    (member,) = grid(problem="helmholtz", parameters={"a2": 3}).members
    assert (member.complexity, member.parameters["a2"]) == (3, 3)


@pytest.mark.parametrize(
    "text", ["a/b", "../up", "M1*", "nul\0", "Größe", "a b", "con:", "x" * 300]
)
def test_names_of_folders_are_safe_and_tell_apart_whatever_the_text(text: str) -> None:
    names = {
        Member("poisson", model, 0, 10).name for model in (text, f"{text}?", f"{text}/", "a-b")
    }
    assert len(names) == 4
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9=._+-]{1,100}", name)
        assert not name.startswith(".")


def test_a_file_declares_what_the_arguments_do(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(TOML)
    sweep = read_sweep(tmp_path / "s.toml")
    assert sweep == Sweep(
        "helmholtz",
        models=("M1", "M4"),
        complexities=(1, 4),
        seeds=[0, 1, 2],
        steps=40000,
        parameters={"k": 2},
        options={"hidden": (50, 50, 50)},
    )
    assert len(sweep.members) == 12


def test_the_declaration_in_a_folder_is_the_sweep(tmp_path: Path) -> None:
    sweep = grid(complexities=[1, 0.1], options={"widths": (50, 50)})
    assert read_declaration(tmp_path) is None
    write_declaration(sweep, tmp_path)
    assert read_declaration(tmp_path) == sweep
    assert json.loads((tmp_path / "sweep.json").read_text())["complexities"] == [1, 0.1]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("steps =", "step ="), "no key 'step' of a sweep; it has problem, models, complexities"),
        (('problem = "helmholtz"', ""), "key 'problem' is missing"),
        (('"helmholtz"', '"stokes"'), "no problem 'stokes'; choose one of"),
        (("k = 2", "q = 2"), "'helmholtz' has no parameter 'q'; it has a1, a2, k"),
        (("k = 2", "a2 = 2"), "'a2' is the complexity of 'helmholtz'"),
        (('["M1", "M4"]', "[]"), "`models` is empty, so that the grid is"),
        (('["M1", "M4"]', '"M1"'), "`models` is 'M1'; give a list"),
        (('"M4"', "4"), "`models` holds 4; give the names of models"),
        (('"M4"', '"M1"'), "`models` holds 'M1' twice"),
        (('"M4"', '"m1"'), "would share the folder"),
        (("[1, 4]", "[]"), "`complexities` is empty"),
        (("[1, 4]", '["hard"]'), "`complexities` holds 'hard'; give numbers, the values of 'a2'"),
        (("[1, 4]", "[nan]"), "`complexities` holds nan"),
        (("seeds = 3", "seeds = 0"), "`seeds` is 0; give the number of seeds"),
        (("seeds = 3", "seeds = [-1]"), "`seeds` holds -1; give whole numbers"),
        (("seeds = 3", "seeds = 1.5"), "`seeds` is 1.5; give a list"),
        (("40000", "0"), "`steps` is 0; give the number of steps"),
        (("40000", "true"), "`steps` is True"),
        (("hidden =", "status ="), "option is called 'status', which a run has already"),
        (("[50, 50, 50]", "2020-01-01"), "`options` holds something that JSON cannot"),
        (("[options]", "[options"), "is not written in TOML"),
    ],
)
def test_each_mistake_in_a_file_is_one_sentence(
    tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    (tmp_path / "s.toml").write_text(TOML.replace(*change))
    with pytest.raises(ArgumentError) as raised:
        read_sweep(tmp_path / "s.toml")
    message = str(raised.value)
    assert sentence in message
    assert str(tmp_path / "s.toml") in message
    assert message.endswith(".")
    assert "\n" not in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="No such file"):
        read_sweep(tmp_path / "s.toml")
