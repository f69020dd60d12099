"""What a sweep is: a declared grid models x complexities x seeds of one problem.

A declaration is checked as a whole before anything runs, and the order of its members depends on
nothing but the declaration, so that a sweep can be stopped and continued anywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..diagnostics.errors import ArgumentError

_UNSAFE = re.compile(r"[^A-Za-z0-9=.+-]+")

# File systems stop at 255 bytes, and Windows at 260 for the whole path.
_LONGEST_NAME = 100

# A run keeps these names by itself, or shows them as columns of its own.
_NAMES_OF_A_RUN = (
    "status started ended error earlier path steps last_step loss"
    " command folder host platform pid versions git"
).split()
_NAMES_OF_A_MEMBER = "problem model complexity seed planned_steps".split()


@dataclass(frozen=True)
class Member:
    """One training of a sweep: all that it depends on, as plain values that can be pickled.

    Example:
        >>> Member("helmholtz", "M1", seed=0, steps=100, parameters={"a2": 4}).name
        'helmholtz_a2=4_M1_steps=100_seed=0'
    """

    problem: str  # a key of `PROBLEMS`
    model: str
    seed: int
    steps: int
    complexity: float | None = None  # also among the parameters, under the problem's name for it
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of the problem
    options: Mapping[str, Any] = field(default_factory=dict)  # further ones, of the training

    def __post_init__(self) -> None:
        # Copies: nobody changes a member through the mapping that it was made from.
        object.__setattr__(self, "parameters", dict(self.parameters))
        object.__setattr__(self, "options", dict(self.options))

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def name(self) -> str:
        """The name of its folder: says all that it depends on, and is safe on any file system."""
        pieces = [
            self.problem,
            *(f"{key}={_text(value)}" for key, value in self.parameters.items()),
            self.model,
            *(f"{key}={_text(value)}" for key, value in self.options.items()),
            f"steps={self.steps}",
            f"seed={self.seed}",
        ]
        safe = "_".join(_UNSAFE.sub("-", piece) for piece in pieces)
        if safe == "_".join(pieces) and len(safe) <= _LONGEST_NAME:
            return safe
        # What was replaced or cut off might have been all that told two members apart.
        digest = hashlib.sha256("_".join(pieces).encode()).hexdigest()[:8]
        return f"{safe[: _LONGEST_NAME - 9]}_{digest}"

    @property
    def metadata(self) -> dict[str, Any]:
        """What its run is to be found by, for `RunWriter` and `Probe`."""
        described = {
            "problem": self.problem,
            "model": self.model,
            "complexity": self.complexity,
            "seed": self.seed,
            "planned_steps": self.steps,
        }
        return {**self.options, **self.parameters, **described}


@dataclass(frozen=True)
class Sweep:
    """A grid models x complexities x seeds of one problem.

    Args:
        problem: a key of `PROBLEMS`.
        models: names such as "M1".
        complexities: values of the problem's complexity parameter; its default one alone if none
            is given.
        seeds: their number, counted from 0, or the seeds themselves.
        steps: of each training.
        parameters: of the problem, where they are not to be the default ones.
        options: handed on to each training; what JSON can hold.

    Raises:
        ArgumentError: there is no such problem or parameter, an axis is empty or names a value
            twice, or something has a type that it cannot have.

    Example:
        >>> sweep = Sweep("poisson", models=["M1", "M4"], complexities=[1, 8], seeds=3, steps=500)
        >>> len(sweep.members), sweep.members[0].name
        (12, 'poisson_C=1_M1_steps=500_seed=0')
    """

    problem: str
    models: tuple[str, ...]
    complexities: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]

    def __init__(
        self,
        problem: str,
        *,
        models: Iterable[str],
        steps: int,
        complexities: Iterable[float] | None = None,
        seeds: int | Iterable[int] = 1,
        parameters: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not _is_whole(steps) or steps < 1:
            raise ArgumentError(f"`steps` is {steps!r}; give the number of steps, 1 or more.")
        given: dict[str, Any] = {
            "problem": problem,
            "models": _axis("models", models, "the names of models", _is_name),
            "seeds": _axis("seeds", _counted(seeds), "whole numbers from 0 on", _is_seed),
            "steps": int(steps),
            "parameters": _mapping("parameters", parameters),
            "options": _mapping("options", options),
        }
        given["complexities"] = _complexities(problem, given["parameters"], complexities)
        for name, value in given.items():
            object.__setattr__(self, name, value)
        _check_names(self)

    def __hash__(self) -> int:
        return hash((self.problem, self.models, self.complexities, self.seeds, self.steps))

    @property
    def members(self) -> tuple[Member, ...]:
        """All of them; a seed of every model and complexity comes before the next seed.

        In this order a sweep that is stopped early has compared everything at least once.
        """
        parameter = _problem_class(self.problem).complexity.parameter
        return tuple(
            Member(
                self.problem,
                model,
                seed,
                self.steps,
                complexity,
                {**self.parameters, parameter: complexity},
                self.options,
            )
            for seed in self.seeds
            for complexity in self.complexities
            for model in self.models
        )

    @property
    def declaration(self) -> dict[str, Any]:
        """The sweep as JSON gives it back; `Sweep(**declaration)` is the same one."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def _complexities(
    problem: str, parameters: Mapping[str, Any], given: Iterable[float] | None
) -> tuple[float, ...]:
    from .registry import problem as make_problem  # loads PyTorch

    if not isinstance(problem, str):
        raise ArgumentError(f"`problem` is {problem!r}; give the name of one.")
    # Says what is wrong with the name or the parameters.
    easiest = make_problem(problem, **parameters)
    parameter = easiest.complexity.parameter
    if given is None:
        return (getattr(easiest, parameter),)
    if parameter in parameters:
        raise ArgumentError(
            f"{parameter!r} is the complexity of {problem!r}, which `complexities` gives; leave it "
            "out of `parameters`."
        )
    values = _axis("complexities", given, f"numbers, the values of {parameter!r}", _is_number)
    for value in values:
        make_problem(problem, **parameters, **{parameter: value})
    return values


def _problem_class(name: str) -> Any:
    from .registry import PROBLEMS

    return PROBLEMS[name]


def _check_names(sweep: Sweep) -> None:
    own = [*_NAMES_OF_A_RUN, *_NAMES_OF_A_MEMBER]
    complexity = _problem_class(sweep.problem).complexity.parameter
    for option in sweep.options:
        if option in own or option in sweep.parameters or option == complexity:
            raise ArgumentError(
                f"An option is called {option!r}, which a run has already; give it another name."
            )
    folders: dict[str, Member] = {}
    for member in sweep.members:
        # Some file systems do not tell capitals from small letters.
        other = folders.setdefault(member.name.lower(), member)
        if other is not member:
            raise ArgumentError(
                f"Two members would share the folder {member.name!r}; give their models names "
                "that differ in more than capitals."
            )


def _counted(seeds: Any) -> Any:
    if not _is_whole(seeds):
        return seeds
    if seeds < 1:
        raise ArgumentError(f"`seeds` is {seeds}; give the number of seeds, 1 or more, or a list.")
    return range(seeds)


def _axis(name: str, given: Any, wanted: str, is_valid: Any) -> tuple[Any, ...]:
    # A text is a sequence of its letters, which nobody means.
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ArgumentError(f"`{name}` is {given!r}; give a list: {wanted}.")
    values = tuple(given)
    if not values:
        raise ArgumentError(f"`{name}` is empty, so that the grid is; give {wanted}.")
    for index, value in enumerate(values):
        if not is_valid(value):
            raise ArgumentError(f"`{name}` holds {value!r}; give {wanted}.")
        if value in values[:index]:
            raise ArgumentError(f"`{name}` holds {value!r} twice; give each value once.")
    return values


def _mapping(name: str, given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ArgumentError(f"`{name}` is {given!r}; give names with their values.")
    try:
        # As they come back from a file, so that a sweep equals the one that was written.
        return json.loads(json.dumps(dict(given), allow_nan=False))  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"`{name}` holds something that JSON cannot ({error}); give numbers, texts and lists."
        ) from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seed(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_text, value))  # widths of layers, mostly
    return value if isinstance(value, str) else json.dumps(value)
