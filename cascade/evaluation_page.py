"""An evaluation as sections of a page: figures of each measure, charts, and the worst videos."""

from collections.abc import Mapping

from cascade.eval.measure import Figure, Generated, Report, Scores, SetFigure
from cascade.report.page import Page
from cascade.report.sections import Film
from cascade.video import to_float

WORST = 4
"""The number of videos that are shown per measure."""
TRUTH = "truth"
"""The column of right videos, on the last stage's grid."""


def add_evaluation(page: Page, report: Report, truth: Report, made: Generated) -> Page:
    """A section per measure, beside the scores of right videos."""
    for name, stages in report.items():
        columns = {**stages, TRUTH: next(iter(truth[name].values()))}
        page.section(
            f"Measure: {name}",
            f"{len(made.prompts)} held-out prompts, one video each; intervals are 95 %. The truth "
            "is the same measure of right videos.",
        )
        _figures(page, columns)
        last = [*stages.values()][-1]
        for title, chart in last.charts.items():
            page.lines(
                chart.lines,
                x_label=chart.x_label,
                y_label=chart.y_label,
                marks=chart.marks,
                caption=f"{title}. {chart.caption}",
            )
        _worst(page, last, made)
    return page


def _figures(page: Page, columns: Mapping[str, Scores]) -> None:
    """Shares as intervals in one chart, the other figures as a table."""
    figures = next(iter(columns.values())).figures
    shares = [name for name, figure in figures.items() if figure.share]
    if shares:
        page.intervals(
            {
                name: {column: _point(scores.figures[name]) for column, scores in columns.items()}
                for name in shares
            }
        )
    if others := [name for name in figures if name not in shares]:
        page.table(
            ("figure", *columns),
            [(name, *(str(one.figures[name]) for one in columns.values())) for name in others],
        )


def _point(figure: Figure | SetFigure) -> tuple[float, float, float]:
    return figure.value, *figure.interval


def _worst(page: Page, last: Scores, made: Generated) -> None:
    """The videos with the worst scores by the measure's first figure, after each stage."""
    name, figure = next(iter(last.figures.items()))
    numbers = figure.worst(WORST)
    if figure.share:
        numbers = [n for n in numbers if figure.each[n] < 1]
    if not numbers:
        return
    page.text(f"The worst by “{name}”, after each stage.")
    page.films(
        [*made.videos],
        [
            (
                made.prompts[n],
                [
                    Film(to_float(videos[n]), fps=made.grids[stage].fps)
                    for stage, videos in made.videos.items()
                ],
            )
            for n in numbers
        ],
    )
