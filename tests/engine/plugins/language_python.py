"""Stand-in for ``pulumi-language-python``, which no package index carries: runs programs, component packages, policies.

It runs Python as the real host does: with the interpreter of ``runtime.options.virtualenv``, else its own, and through
Pulumi's own ``pulumi-language-python-exec``. It installs nothing and finds no dependencies.

Usage: language_python.py --exec PULUMI_LANGUAGE_PYTHON_EXEC [--sdk-generator PROGRAM] [ENGINE_ADDRESS]
"""

# ruff: noqa: N802  gRPC gives a servicer's methods their names

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

VERSION = "3.255.0"

EXIT_EXPLAINED = 32
"""Exit status of a program that has already told the engine what is wrong."""


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Pulumi's language protocol, as far as Python programs need it."""

    def __init__(self, engine: str, program_runner: Path, sdk_generator: Path | None) -> None:
        self._engine = engine
        self._program_runner = program_runner
        self._sdk_generator = sdk_generator
        self._started: list[subprocess.Popen[bytes]] = []

    def stop(self) -> None:
        """End every program that still runs."""
        for process in self._started:
            process.kill()

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._engine = request.engine_address or self._engine
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def GetRequiredPackages(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language_pb2.GetRequiredPackagesResponse()

    def GetRequiredPlugins(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language_pb2.GetRequiredPluginsResponse()

    def GetProgramDependencies(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language_pb2.GetProgramDependenciesResponse()

    def RuntimeOptionsPrompts(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language_pb2.RuntimeOptionsResponse()

    def About(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language_pb2.AboutResponse(executable=sys.executable, version=sys.version.split()[0])

    def InstallDependencies(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        return iter(())

    def Link(self, request: Any, context: grpc.ServicerContext) -> Any:
        folders = [Path(request.info.root_directory) / package.path for package in request.packages]
        for folder in folders:
            _describe(folder)
        names = ", ".join(str(folder) for folder in folders)
        return language_pb2.LinkResponse(import_instructions=f"put on sys.path, for nothing is installed: {names}")

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        return empty_pb2.Empty()

    def Run(self, request: Any, context: grpc.ServicerContext) -> Any:
        command = [
            *(interpreter(request.info), "-u", str(self._program_runner)),
            *("--monitor", request.monitor_address, "--engine", self._engine),
            *("--project", request.project, "--stack", request.stack),
            *("--organization", request.organization or "organization"),
            *("--root_directory", request.info.root_directory, "--pwd", request.pwd),
            *("--parallel", str(request.parallel), "--dry_run", "true" if request.dryRun else "false"),
            entry_point(request.info),
            *request.args,
        ]
        environment = {
            **os.environ,
            "PULUMI_CONFIG": json.dumps(dict(request.config)),
            "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
        }
        process = subprocess.Popen(command, cwd=request.pwd or None, env=environment)
        self._started.append(process)
        context.add_callback(process.terminate)
        status = process.wait()
        if status == EXIT_EXPLAINED:
            return language_pb2.RunResponse(bail=True)
        error = f"the program ended with exit status {status}" if status else ""
        return language_pb2.RunResponse(error=error)

    def RunPlugin(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        environment = {**os.environ, **dict(entry.split("=", 1) for entry in request.env)}
        process = subprocess.Popen(
            [interpreter(request.info), "-u", entry_point(request.info), *request.args],
            cwd=request.pwd or None,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        context.add_callback(process.terminate)
        assert process.stdout is not None
        assert process.stderr is not None
        for name, chunk in _merged({"stdout": process.stdout, "stderr": process.stderr}):
            if name == "stdout":
                yield language_pb2.RunPluginResponse(stdout=chunk)
            else:
                yield language_pb2.RunPluginResponse(stderr=chunk)
        yield language_pb2.RunPluginResponse(exitcode=process.wait())

    def GeneratePackage(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self._sdk_generator is None:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED, "this stand-in language host was started without a generator of SDKs"
            )
        Path(request.directory).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as schema:
            schema.write(request.schema)
            schema.flush()
            made = subprocess.run(
                [str(self._sdk_generator), schema.name, request.directory], capture_output=True, text=True, check=False
            )
        if made.returncode:
            context.abort(grpc.StatusCode.INTERNAL, made.stderr)
        return language_pb2.GeneratePackageResponse()


def interpreter(info: Any) -> str:
    """The interpreter that a program asks for by ``runtime.options.virtualenv``, else this one."""
    options = dict(info.options)
    if options.get("virtualenv"):
        python = Path(info.root_directory) / options["virtualenv"] / "bin" / "python"
        if python.exists():
            return str(python)
    return sys.executable


def entry_point(info: Any) -> str:
    """What Python shall run: a file, or a folder with a ``__main__.py``."""
    return os.path.normpath(Path(info.program_directory) / info.entry_point)


def _describe(sdk: Path) -> None:
    """Give a generated SDK the metadata that installing it would have given, which it asks for when it is imported."""
    description = next(sdk.glob("*/pulumi-plugin.json"))
    name, version = description.parent.name, json.loads(description.read_text()).get("version") or "0.0.0"
    metadata = sdk / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _merged(streams: dict[str, IO[bytes]]) -> Iterator[tuple[str, bytes]]:
    chunks: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def pump(name: str, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), 65536):
            chunks.put((name, chunk))
        chunks.put((name, b""))

    for name, stream in streams.items():
        threading.Thread(target=pump, args=(name, stream), daemon=True).start()
    open_streams = len(streams)
    while open_streams:
        name, chunk = chunks.get()
        if chunk:
            yield name, chunk
        else:
            open_streams -= 1


def main() -> None:
    """Serve until the engine ends this process, or dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--exec", type=Path, required=True)
    parser.add_argument("--sdk-generator", type=Path)
    parser.add_argument("engine", nargs="?", default="")
    arguments, _ = parser.parse_known_args()
    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", 400 << 20)])
    host = LanguageHost(arguments.engine, arguments.exec, arguments.sdk_generator)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    port = server.add_insecure_port("127.0.0.1:0")
    parent = os.getppid()
    server.start()
    print(port, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while os.getppid() == parent:
            time.sleep(0.5)
    host.stop()
    os._exit(0)


if __name__ == "__main__":
    main()
