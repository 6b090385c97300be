"""What a gateway is made of."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from modelport.serving.gateway.admission import Admission
from modelport.serving.gateway.keys import KeyRing
from modelport.serving.gateway.metrics import GatewayMetrics
from modelport.serving.gateway.records import Shipper, Spool
from modelport.serving.gateway.releases import ReleaseTable
from modelport.serving.gateway.settings import GatewaySettings
from modelport.serving.gateway.triton import Inference


@dataclass
class Gateway:
    """Everything that a request may need."""

    settings: GatewaySettings
    keys: KeyRing
    metrics: GatewayMetrics
    spool: Spool
    shipper: Shipper
    table: ReleaseTable
    inference: Inference
    threads: ThreadPoolExecutor
    admission: Admission
    segment_sealed: asyncio.Event = field(default_factory=asyncio.Event)
