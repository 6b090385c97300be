"""An answer of each task, as the OpenAPI document shows them."""

from typing import Any

_COMMON: dict[str, Any] = {
    "release": "3f1c" + 15 * "9a0e",
    "precision": "fp32",
    "request_id": "0b8f3c1de5a94a44a1d1c2a2b1f0e9d8",
    "width": 640,
    "height": 480,
    "milliseconds": {"decode": 4.1, "inference": 21.7, "total": 27.3},
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "segment": {
        "summary": "Segmentation",
        "value": {
            "model": "polyp_seg",
            **_COMMON,
            "task": "segment",
            "mask": "iVBORw0KGgo...",
            "coverage": 0.0731,
            "classes": [
                {"id": 0, "name": "background", "color": "#000000"},
                {"id": 1, "name": "polyp", "color": "#ff3b30"},
            ],
        },
    },
    "detect": {
        "summary": "Detection",
        "value": {
            "model": "cxr_detect",
            **_COMMON,
            "task": "detect",
            "detections": [
                {"label": "Nodule/Mass", "class_id": 8, "score": 0.82, "box": [312.5, 140.0, 355.25, 181.5]}
            ],
            "classes": [{"id": 8, "name": "Nodule/Mass", "color": "#ff3b30"}],
        },
    },
    "classify": {
        "summary": "Classification",
        "value": {
            "model": "dry_wet",
            **_COMMON,
            "task": "classify",
            "label": "wet",
            "class_id": 1,
            "confidence": 0.93,
            "unsure": False,
            "threshold": 0.6,
            "probabilities": {"dry": 0.07, "wet": 0.93},
            "classes": [{"id": 0, "name": "dry", "color": "#ffcc00"}, {"id": 1, "name": "wet", "color": "#007aff"}],
        },
    },
}
"""By task."""
