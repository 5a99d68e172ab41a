"""Experiments on the running cluster: first what goes wrong without a pattern, then the same with it.

    experiment   what an experiment is, and whether its pattern held
    ground       the cluster it runs on, left as it was found
    picture      figures as text
    servers      the cluster's servers, to break and to mend        wire   a light HTTP client

Every other module is one experiment. What is naive in it lives here only: the service has no switch that weakens it.
"""
