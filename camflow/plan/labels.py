"""The label maps of another recipe that a classifier learns from (AMN's confident labels)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camflow.errors import RecipeError
from camflow.plan.recipe import Target, target

if TYPE_CHECKING:
    from camflow.plan.plan import Plan


def labels_read(plan: Plan, steps: tuple[str, ...], split: str) -> Target:
    """Masks of the recipe that the classifier of a recipe names as its ``labels``.

    Raises ``RecipeError`` when it names none that ends in a refiner.
    """
    value = str(plan.instance("classifier", steps[1])["labels"])
    other, place = (steps[0], *value.split("/")), f"classifiers.{steps[1]}.labels"
    if len(other) != 4:
        raise RecipeError(f"{place}: '{value}' is no recipe down to a refiner, such as plain/cam/confident")
    try:
        plan.check(other)
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from error
    return target(other, "masks", split)
