"""What serving costs: the served pipeline beside the same three graphs in process.

One client, one request under way, one thread per graph on both sides. The ways take turns within one run (A B C D,
A B C D, ...), so that whatever else the machine does hits all of them alike. Needs a platform that serves the model:

    make demo && .venv/bin/python benchmarks/serving_overhead.py [--model polyp_seg] [--rounds 60]
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import tritonclient.grpc
import tritonclient.http
from PIL import Image

from modelport.connection import Connection
from modelport.imaging import Pixels, decode
from modelport.loadtest import fetch_releases, gateway_outputs
from modelport.release import Release, Runtime

WARM_UP = 5
ROUNDS_AT_MOST = 2000


def main() -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="polyp_seg")
    parser.add_argument("--rounds", type=int, default=60, help="requests per way and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[352, 1024], help="square inputs, pixels a side")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    options = parser.parse_args()
    rounds = max(1, min(options.rounds, ROUNDS_AT_MOST))
    connection = Connection.load()
    ((digest, folder),) = fetch_releases(options.model, connection).items()
    release = Release.open(folder, digest)
    print(
        f"{options.model} {digest[:12]}, {rounds} rounds, one client; in process: onnxruntime {onnxruntime.__version__}"
    )
    results = {}
    for size in options.sizes:
        jpeg = resized(decode(next(release.golden()).data), size)
        with httpx.Client(base_url=connection.gateway_url, timeout=30, trust_env=False) as client:
            medians = interleaved(ways(options.model, connection, release, jpeg, client), rounds)
        results[f"{size}x{size}"] = medians
        baseline = medians["in process"]
        print(f"\n{size}x{size}{'p50 ms':>22}{'ratio':>9}{'more ms':>10}")
        for name, median in medians.items():
            print(f"  {name:<18}{median:>11.2f}{median / baseline:>9.3f}{median - baseline:>10.2f}")
    if options.out:
        options.out.write_text(json.dumps({"release": digest, "rounds": rounds, "p50_ms": results}, indent=2) + "\n")


def ways(
    model: str, connection: Connection, release: Release, jpeg: bytes, client: httpx.Client
) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that give the image's mask, by the way they take."""
    image = decode(jpeg)
    runtime = Runtime(release, threads=1)
    triton_name = f"{model}.{release.digest[:12]}"
    headers = {"X-API-Key": connection.gateway_api_key or ""}

    def triton(module: object, address: str) -> Callable[[], np.ndarray]:
        server = module.InferenceServerClient(address)
        outputs = [module.InferRequestedOutput(name) for name in ("mask", "coverage")]

        def ask() -> np.ndarray:
            tensor = module.InferInput("image", list(image.shape), "UINT8")
            tensor.set_data_from_numpy(image)
            return server.infer(triton_name, [tensor], outputs=outputs).as_numpy("mask")

        return ask

    def gateway() -> np.ndarray:
        files = {"image": ("image.jpg", jpeg, "image/jpeg")}
        answer = client.post(f"/v1/models/{model}/predict", files=files, headers=headers)
        answer.raise_for_status()
        return gateway_outputs(answer.json())[1]["mask"]

    return {
        "in process": lambda: runtime.predict(image)["mask"],
        "Triton HTTP": triton(tritonclient.http, connection.triton_http),
        "Triton gRPC": triton(tritonclient.grpc, connection.triton_grpc),
        # This one also decodes the JPEG, encodes the mask as PNG and writes the prediction record.
        "gateway, JPEG": gateway,
    }


def interleaved(functions: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each function; they take turns, each round beginning with another one.

    Raises:
        SystemExit: their answers differ, so that their times say nothing.
    """
    answers = [function() for function in functions.values()]
    for name, answer in zip(functions, answers, strict=True):
        if answer.shape != answers[0].shape or np.mean(answer != answers[0]) > 0.001:
            raise SystemExit(f"{name} gives another mask than the graphs in process")
    order = list(functions)
    times: dict[str, list[float]] = {name: [] for name in order}
    for round_ in range(-WARM_UP, rounds):
        for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
            began = time.perf_counter()
            functions[name]()
            if round_ >= 0:
                times[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def resized(image: Pixels, size: int) -> bytes:
    """JPEG of the image, scaled to a square of `size` pixels a side."""
    stream = io.BytesIO()
    Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR).save(stream, format="JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
