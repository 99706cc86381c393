#!/usr/bin/env python3
"""Writes dashboard.json, which Grafana (10 or later) imports: a page of panels over the metrics of cactus_py.serving.metrics.

python scripts/monitoring/make_dashboard.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCOPE = 'job=~"$job", instance=~"$instance"'
MODEL = SCOPE + ', model=~"$model"'
REASONING = MODEL + ', kind="reasoning"'
QUANTILES = (0.5, 0.95, 0.99)

Target = tuple[str, str]  # PromQL, legend


def rate(metric: str, scope: str = MODEL) -> str:
    return f"rate({metric}{{{scope}}}[$__rate_interval])"


def quantiles(histogram: str, scope: str = MODEL) -> list[Target]:
    summed = f"sum by (le) ({rate(histogram + '_bucket', scope)})"
    return [(f"histogram_quantile({q}, {summed})", f"p{round(100 * q)}") for q in QUANTILES]


def share(part: str, whole: str) -> str:
    return f"sum({part}) / sum({whole})"


# Rows of panels: (title, unit, targets, what it says). A row is as wide as the page.
ROWS: list[tuple[str, list[tuple[str, str, list[Target], str]]]] = [
    (
        "Requests",
        [
            (
                "Requests per second",
                "reqps",
                [(f"sum by (endpoint, status) ({rate('cactus_requests_total')})", "{{endpoint}} {{status}}")],
                "Requests that ended, by endpoint and HTTP status (499: the client went away).",
            ),
            (
                "Errors by kind",
                "reqps",
                [(f"sum by (kind) ({rate('cactus_errors_total', SCOPE)}) > 0", "{{kind}}")],
                "Requests that failed.",
            ),
            (
                "In flight",
                "short",
                [
                    (f"sum(cactus_requests_open{{{SCOPE}}})", "open requests"),
                    (f"sum(cactus_engine_requests_running{{{MODEL}}})", "sequences running"),
                    (f"sum(cactus_engine_requests_waiting{{{MODEL}}})", "sequences waiting"),
                ],
                "One request may be several sequences.",
            ),
        ],
    ),
    (
        "Latency",
        [
            ("Time to first token", "s", quantiles("cactus_time_to_first_token_seconds"), "From a request's arrival."),
            ("Time between tokens", "s", quantiles("cactus_time_between_tokens_seconds"), "Of one answer."),
            ("Whole request", "s", quantiles("cactus_request_duration_seconds"), "Requests that succeeded."),
            ("In the queue", "s", quantiles("cactus_queue_time_seconds"), "Before the engine began with a request."),
        ],
    ),
    (
        "Tokens",
        [
            (
                "Tokens per second",
                "short",
                [
                    (f"sum({rate('cactus_engine_generated_tokens_total')})", "generated"),
                    (f"sum({rate('cactus_engine_prompt_tokens_total')})", "prompts"),
                    (f"sum({rate('cactus_tokens_total', REASONING)})", "reasoning"),
                ],
                "By the engine; generated contains reasoning.",
            ),
            (
                "Found in memory",
                "percentunit",
                [
                    (
                        share(rate("cactus_prefix_hit_tokens_total"), rate("cactus_engine_prompt_tokens_total")),
                        "of prompt tokens",
                    )
                ],
                "Tokens of prompts that did not have to be read again because an earlier request began alike.",
            ),
            (
                "Drafts accepted",
                "percentunit",
                [(share(rate("cactus_accepted_tokens_total"), rate("cactus_drafted_tokens_total")), "of drafted tokens")],
                "Tokens computed ahead of their turn that were then chosen.",
            ),
        ],
    ),
    (
        "Memory",
        [
            (
                "Key and value memory",
                "percentunit",
                [
                    (share(f"cactus_kv_pages_used{{{MODEL}}}", f"cactus_kv_pages{{{MODEL}}}"), "in use"),
                    (share(f"cactus_kv_pages_cached{{{MODEL}}}", f"cactus_kv_pages{{{MODEL}}}"), "kept prefixes"),
                ],
                "Share of all pages.",
            ),
            (
                "Preemptions and evictions per second",
                "short",
                [
                    (f"sum({rate('cactus_preemptions_total')})", "requests put off"),
                    (f"sum({rate('cactus_evicted_pages_total')})", "pages given up"),
                ],
                "What a lack of key and value memory costs.",
            ),
            (
                "Process",
                "bytes",
                [
                    (f"process_resident_memory_bytes{{{SCOPE}}}", "resident {{instance}}"),
                    (f"cactus_process_private_memory_bytes{{{SCOPE}}}", "private {{instance}}"),
                ],
                "Resident memory contains weights in mapped files, which the system may take back; private memory does not.",
            ),
            (
                "Models loaded",
                "short",
                [(f"cactus_models_loaded{{{SCOPE}}}", "{{instance}}")],
                "Loaded on demand, unloaded by age.",
            ),
        ],
    ),
    (
        "Routing",
        [
            (
                "Where answers are made",
                "percentunit",
                [
                    (
                        f"sum by (route) ({rate('cactus_routed_requests_total')}) "
                        f"/ ignoring (route) group_left sum({rate('cactus_routed_requests_total')})",
                        "{{route}}",
                    )
                ],
                "Share of answers.",
            ),
            (
                "Confidence",
                "percentunit",
                [
                    (share(rate("cactus_confidence_sum"), rate("cactus_confidence_count")), "mean"),
                    *quantiles("cactus_confidence")[:1],
                    (f"histogram_quantile(0.1, sum by (le) ({rate('cactus_confidence_bucket')}))", "p10"),
                ],
                "Calibrated probability that an answer is right.",
            ),
            (
                "Up since",
                "s",
                [
                    (
                        f"cactus_uptime_seconds{{{SCOPE}}} * on (job, instance) group_left (version) cactus_build_info",
                        "{{instance}} {{version}}",
                    )
                ],
                "Time since the server started.",
            ),
        ],
    ),
]

ROWS.append(
    (
        "Cloud",
        [
            (
                "Handed over",
                "reqps",
                [(f"sum by (reason) ({rate('cactus_handovers_total', SCOPE)}) > 0", "{{reason}}")],
                "Answers of the cloud, by what led there.",
            ),
            (
                "Failures of the cloud",
                "reqps",
                [(f"sum by (kind) ({rate('cactus_cloud_failures_total', SCOPE)}) > 0", "{{kind}}")],
                "Requests that it failed. The device answered those that did not insist on it.",
            ),
            (
                "Dollars per hour",
                "currencyUSD",
                [(f"3600 * sum by (instance) ({rate('cactus_cloud_cost_dollars_total', SCOPE)})", "{{instance}}")],
                "What answers of the cloud cost, where the price is known.",
            ),
            (
                "Circuit breakers",
                "short",
                [(f'cactus_cloud_breaker{{{SCOPE}, state="open"}}', "{{host}} open")],
                "1 while a host of the cloud is left alone because it failed too often.",
            ),
        ],
    )
)

SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(number: int, title: str, unit: str, targets: list[Target], text: str, place: dict[str, int]) -> dict[str, Any]:
    queries = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for i, (expr, legend) in enumerate(targets)
    ]
    defaults: dict[str, Any] = {"unit": unit, "min": 0, "custom": {"lineWidth": 2, "fillOpacity": 8, "showPoints": "never"}}
    if unit == "percentunit":
        defaults["max"] = 1
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": queries,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    }


def variable(name: str, label: str, metric: str, scope: str = "") -> dict[str, Any]:
    query = f"label_values({metric}{scope}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}, "panels": []}
        )
        width = 24 // len(row)
        for i, (name, unit, targets, text) in enumerate(row):
            place = {"h": 8, "w": width, "x": i * width, "y": top + 1}
            panels.append(panel(len(panels) + 1, name, unit, targets, text, place))
        top += 9
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus", "current": {}}
    return {
        "uid": "cactus-py",
        "title": "cactus_py",
        "tags": ["cactus_py"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                source,
                variable("job", "Job", "cactus_build_info"),
                variable("instance", "Server", "cactus_build_info", '{job=~"$job"}'),
                variable("model", "Model", "cactus_tokens_total", f"{{{SCOPE}}}"),
            ]
        },
        "annotations": {"list": []},
        "panels": panels,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("dashboard.json").write_text(text())
