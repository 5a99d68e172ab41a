"""`flask lab`: experiments on the running cluster, each first without a pattern, then with it."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

import click

import config
from commands.terminal import Failure, plain_errors

if TYPE_CHECKING:
    from lab.experiment import Outcome

_WIDTH = 88


@click.command("lab")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="The figures alone, as JSON.")
@click.option(
    "--without-cure",
    is_flag=True,
    help="Leave the pattern out: to see that the lab notices, and exits with 1.",
)
@plain_errors
def lab_command(name: str | None, *, as_json: bool, without_cure: bool) -> None:
    """Show one scaling pattern on the running cluster: first what goes wrong without it, then the same with it.

    Without NAME, lists the experiments. Exit status 1 where the pattern did not hold. The cluster is left as it was.
    """
    # Here, so that the service, which registers the commands too, neither loads nor needs what only they use.
    from lab.experiment import run_experiment  # noqa: PLC0415
    from lab.experiments import EXPERIMENTS  # noqa: PLC0415
    from lab.ground import open_ground  # noqa: PLC0415
    from lab.wire import DroppedError  # noqa: PLC0415

    if name is None:
        width = max(map(len, EXPERIMENTS))
        for experiment in EXPERIMENTS.values():
            click.echo(f"{experiment.name.ljust(width)}  {experiment.shows}")
        return
    if name not in EXPERIMENTS:
        raise Failure(f"there is no lab {name}: {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[name]
    if not as_json:
        click.echo(f"{experiment.shows}\n\n{textwrap.fill(experiment.story, _WIDTH)}\n")
    try:
        with open_ground(config.load().var) as ground:
            outcome = run_experiment(
                experiment,
                ground,
                cured=not without_cure,
                report=lambda line: click.echo(f"... {line}", err=True),
            )
    except DroppedError as error:
        raise Failure(str(error)) from error
    if as_json:
        click.echo(json.dumps(outcome.document(), indent=2))
    else:
        _print(outcome)
    if not outcome.held:
        raise Failure(
            f"the pattern did not hold: {experiment.figure} {outcome.without:,.4g} without,"
            f" {outcome.with_pattern:,.4g} with"
        )


def _print(outcome: Outcome) -> None:
    click.echo(f"\n{outcome.experiment.picture(outcome.found)}\n")
    for found in outcome.found:
        values = ", ".join(
            f"{name.replace('_', ' ')} {value:,.4g}"
            for name, value in found.figures.items()
            if isinstance(value, int | float)
        )
        click.echo(f"{found.title}: {values}")
