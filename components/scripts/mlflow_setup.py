"""Brings MLflow's database to what a server of this image expects: tables of both stores, users, their rights.

It speaks to the database and not to a server: it runs before the server does, and needs no old password of the
administrator. It may run any number of times. Who is in the database and not in ``users.json`` is removed.

Environment: MLFLOW_BACKEND_STORE_URI, MLFLOW_AUTH_CONFIG_PATH, AUTH_SCHEMA (PostgreSQL's schema of the users' tables),
USERS_FILE, DEADLINE_SECONDS. ``users.json``: ``{"admin": name, "passwords": {user: password},
"grants": {user: {kind of resource: permission}}}``.
"""

import configparser
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def wait_for_database(uri: str, seconds: float) -> Any:
    """An engine of SQLAlchemy that has reached the database.

    Raises:
        SystemExit: it did not answer in time.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    engine = sqlalchemy.create_engine(uri)
    end = time.monotonic() + seconds
    while True:
        try:
            with engine.connect():
                return engine
        except SQLAlchemyError as error:
            if time.monotonic() > end:
                sys.exit(f"the database did not answer within {seconds:g} seconds: {type(error).__name__}")
            time.sleep(2)


def migrate(engine: Any, uri: str, schema: str) -> None:
    """Tables of runs and registered versions, as this version of MLflow wants them; and a schema for the users."""
    import sqlalchemy
    from mlflow.db import upgrade

    assert upgrade.callback is not None
    upgrade.callback(uri)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(sqlalchemy.schema.CreateSchema(schema, if_not_exists=True))


def bring_users(uri: str, wanted: dict[str, Any]) -> None:
    """Users with their passwords and rights, and nobody else."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(uri)
    for user, password in wanted["passwords"].items():
        admin = user == wanted["admin"]
        if not store.has_user(user):
            store.create_user(user, password, is_admin=admin)
            print(f"user {user} is new")
        elif not store.authenticate_user(user, password):
            store.update_user(user, password=password)
            print(f"user {user} has another password")
        store.update_user(user, is_admin=admin)
        grant(store, user, wanted["grants"].get(user, {}))
    for user in store.list_users():
        if user.username not in wanted["passwords"]:
            store.delete_user(user.username)
            print(f"user {user.username} is no longer wanted and was removed")


def grant(store: Any, user: str, rights: dict[str, str]) -> None:
    """A user's rights on every resource of a kind, and no others of that sort; those on single ones are its own."""
    for role in store.list_user_roles(store.get_user(user).id):
        for held in store.list_role_permissions(role.id):
            if held.resource_pattern == "*" and held.resource_type not in rights:
                store.remove_role_permission(held.id)
                print(f"user {user} no longer has {held.permission} on every {held.resource_type}")
    for kind, permission in rights.items():
        store.grant_user_permission(user, kind, "*", permission)
        print(f"user {user} has {permission} on every {kind}")


def main() -> None:
    """Wait, migrate, users."""
    deadline = float(os.environ.get("DEADLINE_SECONDS", "240"))
    config = configparser.ConfigParser()
    config.read(os.environ["MLFLOW_AUTH_CONFIG_PATH"])
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    engine = wait_for_database(uri, deadline)
    migrate(engine, uri, os.environ["AUTH_SCHEMA"])
    engine.dispose()
    print("tables are as this version of MLflow wants them")
    bring_users(config["mlflow"]["database_uri"], json.loads(Path(os.environ["USERS_FILE"]).read_text()))


if __name__ == "__main__":
    main()
