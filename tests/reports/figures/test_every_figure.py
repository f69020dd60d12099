"""What holds for every figure of one run, whatever the run is like."""

import io
import re
import warnings
from collections.abc import Callable

import matplotlib
import pytest

from gradpath import Run
from gradpath.probes import RunWriter
from gradpath.reports import figures
from gradpath.reports.figures import NotMeasuredError, Plate
from gradpath.reports.theme import svg

RunOf = Callable[[str], Run]
NAMES = [
    "gradient_histograms",
    "histograms_over_time",
    "stiffness",
    "spectral_density",
    "sorted_spectrum",
    "losses",
    "weights",
    "imbalance",
    "update_sizes",
    "alignment",
    "predicted_change",
    "probing_cost",
]
OF_SEVERAL_TERMS = {"imbalance", "alignment"}


def draw(name: str, run: Run, **options: bool) -> Plate:
    plate = getattr(figures, name)(run, **options)
    assert isinstance(plate, Plate)
    return plate


def names_of_axes(plate: Plate) -> set[str]:
    """All words by the axes of a figure, its own included."""
    texts = [label for axes in plate.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
    return {text for text in (*texts, plate.get_supxlabel(), plate.get_supylabel()) if text}


@pytest.mark.parametrize("kind", ["plain", "one step", "broken"])
@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_shows(name: str, kind: str, run_of: RunOf) -> None:
    plate = draw(name, run_of(kind))
    assert plate.title
    assert not plate.title.endswith(".")
    assert re.search(r"\d", plate.caption)
    assert plate.caption.endswith(".")
    assert plate.alternative.endswith(".")
    assert names_of_axes(plate)
    assert "nan" not in plate.caption


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_something_in_it(name: str, run_of: RunOf) -> None:
    for axes in draw(name, run_of("plain")).axes:
        assert axes.lines or axes.collections or axes.patches or axes.images


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(name: str, run_of: RunOf) -> None:
    """Warnings, as of missing glyphs, are errors."""
    plate = draw(name, run_of("hostile"))
    text = svg(plate).decode()
    assert len(text) < 400_000
    assert "<script>" not in text
    assert all(ord(letter) >= 32 and letter != "\u202e" for letter in plate.caption)
    assert len(plate.caption) < 3_000


@pytest.mark.parametrize("kind", ["many layers", "many terms"])
@pytest.mark.parametrize("name", NAMES)
def test_a_large_run_fits_a_page(name: str, kind: str, run_of: RunOf) -> None:
    plate = draw(name, run_of(kind))
    width, height = plate.get_size_inches()
    assert width <= 7
    assert height <= 10


def test_a_page_of_many_layers_is_a_small_file(run_of: RunOf) -> None:
    assert len(svg(draw("gradient_histograms", run_of("many layers")))) < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_one_term_is_enough_where_one_can_be(name: str, run_of: RunOf) -> None:
    if name in OF_SEVERAL_TERMS:
        with pytest.raises(NotMeasuredError, match="several terms"):
            draw(name, run_of("one term"))
    else:
        assert draw(name, run_of("one term")).axes


@pytest.mark.parametrize("name", NAMES)
def test_nothing_measured_is_one_sentence(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("empty")
    with RunWriter(folder):
        pass
    with pytest.raises(NotMeasuredError) as caught:
        draw(name, Run(folder))
    assert re.fullmatch(r"The run [^.]*\.", str(caught.value))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_broken_throughout_is_drawn_or_refused(name: str, run_of: RunOf) -> None:
    refused = {"predicted_change": "Descent", "alignment": "zero, or not finite"}
    if name in refused:
        with pytest.raises(NotMeasuredError, match=refused[name]):
            draw(name, run_of("always broken"))
    else:
        svg(draw(name, run_of("always broken")))


@pytest.mark.parametrize("name", ["gradient_histograms", "stiffness", "alignment"])
def test_the_same_figure_is_the_same_bytes(name: str, run_of: RunOf) -> None:
    assert svg(draw(name, run_of("plain"))) == svg(draw(name, run_of("plain")))


@pytest.mark.parametrize("name", ["losses", "alignment"])
def test_a_dark_figure_is_dark_also_outside_of_its_theme(name: str, run_of: RunOf) -> None:
    dark = draw(name, run_of("plain"), dark=True)
    assert max(matplotlib.colors.to_rgb(dark.get_facecolor())) < 0.2
    dark.savefig(io.BytesIO(), format="png")  # as a notebook does
    labels = [label for axes in dark.axes for label in axes.get_xticklabels()]
    assert min(min(matplotlib.colors.to_rgb(label.get_color())) for label in labels) > 0.8


def test_settings_of_the_user_stay_as_they_are(run_of: RunOf) -> None:
    before = dict(matplotlib.rcParams)
    svg(draw("losses", run_of("plain"), dark=True))
    assert dict(matplotlib.rcParams) == before


def test_a_part_can_be_chosen(run_of: RunOf) -> None:
    run = run_of("two parts")
    assert "this is generator" in figures.losses(run).caption
    assert "this is discriminator" in figures.losses(run, part="discriminator").caption
    with pytest.raises(ValueError, match="no part 'critic'"):
        figures.losses(run, part="critic")


def test_a_fixed_batch_is_named(run_of: RunOf) -> None:
    assert "fixed batch grid" in figures.stiffness(run_of("fixed batch")).caption
    assert "fixed batch" not in figures.stiffness(run_of("plain")).caption


def test_a_term_has_one_colour_in_all_figures(run_of: RunOf) -> None:
    run = run_of("plain")
    colours = [
        {axes.lines[row].get_color() for axes in plate.axes[:1]}
        for plate, row in (
            (figures.losses(run), 1),
            (figures.weights(run), 1),
            (figures.gradient_histograms(run), 1),
            (figures.spectral_density(run), 1),
            (figures.sorted_spectrum(run), 1),
            (figures.imbalance(run), 0),
        )
    ]
    assert all(each == colours[0] for each in colours)


def test_values_that_are_not_finite_are_said_and_marked(run_of: RunOf) -> None:
    plate = figures.losses(run_of("broken"))
    assert "5 of 10 values of residual, first at step 100" in plate.caption
    assert "not finite" in {text.get_text() for text in plate.axes[0].texts}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg(plate)
