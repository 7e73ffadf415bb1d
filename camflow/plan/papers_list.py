"""``camflow papers``: the published tables, what each row stands for under a config, and what there is of it already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from camflow.errors import RecipeError, did_you_mean
from camflow.plan.papers import Cell, target_name
from camflow.plan.plan import Plan


def describe(plan: Plan, wanted: Sequence[str] = ()) -> Iterator[str]:
    """Lines for people: each target with its title and rows. Nothing is computed and no dataset is read.

    Args:
        plan: the config.
        wanted: names of targets such as ``table_advcam_1``; all if none is given.

    Raises:
        RecipeError: a name is no target.
    """
    tables = {target_name(paper, table): (paper, table) for paper, table in plan.papers.tables}
    for name in wanted:
        if name not in tables:
            raise RecipeError(f"there is no published table '{name}'{did_you_mean(name, tables)}")
    for name in wanted or tables:
        cells = plan.papers.cells(*tables[name])
        width = max(len(cell.row) for cell in cells)
        columns = max(len(cell.column) for cell in cells)
        yield f"{name}  {plan.papers.titles[name]}"
        for cell in cells:
            published = "-" if cell.published is None else f"{cell.published}" + "?" * (not cell.confirmed)
            yield f"  {cell.row:{width}}  {cell.column:{columns}}  {published:>7}  {_status(plan, cell)}"
        yield ""
    yield "A published value with ? is unconfirmed. `snakemake TARGET` makes one, `snakemake papers` all of them."


def _status(plan: Plan, cell: Cell) -> str:
    if cell.not_run:
        return f"not run ({cell.not_run})"
    there = all((plan.results / goal.path).exists() for goal in cell.goals)
    data = "the published data" if cell.same else "other data"
    seeds = f", {len(cell.goals)} seeds" if len(cell.goals) > 1 else ""
    return f"{'measured' if there else 'to measure'} on {data} ({cell.measured_on}): {cell.recipe}{seeds}"
