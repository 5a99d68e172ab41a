"""All experiments, in the order in which `flask lab` lists them."""

from __future__ import annotations

from lab import double_order

EXPERIMENTS = {experiment.name: experiment for experiment in (double_order.EXPERIMENT,)}
