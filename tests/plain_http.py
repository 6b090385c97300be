"""Asking servers of this machine over plain HTTP."""

import httpx

HTTP = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
"""For all tests and threads: making a client reads every certificate of the machine, which takes 30 ms of a processor.
Connections are not kept, because servers are killed and started again under it."""
