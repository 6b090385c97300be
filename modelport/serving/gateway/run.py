"""The gateway's process."""

from modelport.connection import Connection
from modelport.serving.gateway.app import create_app
from modelport.serving.gateway.settings import GatewaySettings
from modelport.serving.http import serve


def run_gateway(settings: GatewaySettings, connection: Connection, host: str, port: int) -> None:
    """Run until a signal ends it; answers under way are finished, and records are stored."""
    serve(create_app(settings, connection), host, port)
