"""Recording programs that make things on Google Cloud, with outputs that Google makes up and components build on."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from pulumi.runtime import mocks

from tests.components import recording
from tests.components.recording import Recorded


def record_on_google(build: Callable[[], object]) -> list[Recorded]:
    """`recording.record`, where every cluster gets a DNS name and every service account an address."""
    recorder: Any = recording._Recorder  # pyright: ignore[reportPrivateUsage]
    plain = recorder.new_resource

    def new_resource(self: Any, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        made, outputs = plain(self, args)
        if args.typ == "gcp:container/cluster:Cluster":
            endpoints = {**args.inputs["controlPlaneEndpointsConfig"], "dnsEndpointConfig": {"endpoint": "gke-1.goog"}}
            outputs = {**outputs, "controlPlaneEndpointsConfig": endpoints}
        if args.typ == "gcp:serviceaccount/account:Account":
            outputs = {**outputs, "email": f"{args.inputs['accountId']}@some-project.iam.gserviceaccount.com"}
        return made, outputs

    with mock.patch.object(recorder, "new_resource", new_resource):
        return recording.record(build)
