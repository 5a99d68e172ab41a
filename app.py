"""The one place where things are wired together.

gunicorn -c gunicorn.conf.py 'app:create_app()'        serves
.venv/bin/flask --app app COMMAND                       the command line
"""

from __future__ import annotations

from flask import Flask

import commands
import config
import logs
from config import Settings
from errors import ConfigurationError
from handlers import (
    admin,
    carts,
    control_room,
    customers,
    live,
    moves,
    orders,
    problems,
    products,
    ranges,
    serve,
    stores,
)
from handlers.bodies import READ_AT_MOST_BYTES
from handlers.endpoint import ENDPOINTS
from handlers.openapi import version
from handlers.ops import Ops, blueprint
from operations.marketplace import Marketplace

# Importing a handlers' module declares its endpoints.
HANDLERS = (stores, products, customers, carts, orders, admin, moves, ranges)


def create_app(settings: Settings | None = None) -> Flask:
    """The service as a Flask application. It has no connection and no thread until its marketplace is started."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = READ_AT_MOST_BYTES
    commands.init_app(app)
    try:
        settings = settings or config.load()
    except ConfigurationError:
        if not commands.are_looked_up():
            raise
        return app  # help needs no cluster, and a command says itself, in one line, what is missing
    logs.configure(settings)
    marketplace = Marketplace(settings)
    app.extensions["marketplace"] = marketplace
    problems.init_app(app)
    serve.init_app(app, marketplace)
    app.register_blueprint(blueprint(Ops(marketplace, ENDPOINTS)))
    app.register_blueprint(control_room.blueprint())
    app.register_blueprint(live.blueprint(live.Live(marketplace, version())))
    return app
