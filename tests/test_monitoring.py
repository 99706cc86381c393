"""scripts/monitoring and /metrics: judged by promtool, and by whether what they name exists."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the server extra is not installed")

from prometheus_client.parser import text_string_to_metric_families

from cactus_py.serving import metrics as module
from cactus_py.serving.metrics import Metrics

FOLDER = Path(__file__).parent.parent / "scripts" / "monitoring"
PROMTOOL = shutil.which("promtool")
NAME = re.compile(r"\b(?:cactus|process)_[a-z_]+\b")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def rendered() -> bytes:
    """/metrics of a server that has done a little of everything."""
    metrics = Metrics(["small"])
    span = metrics.begin("/v1/chat/completions", "small")
    span.tokens(1)
    span.tokens(2)
    span.end(200, route="local", confidence=0.5)
    metrics.begin("/v1/embeddings", "nobody").end(404, error_kind="unknown_model")
    fields = {field: 7 for field, *_ in module._ENGINE}
    cloud = [SimpleNamespace(host="cloud.example", state="open", running=1)]
    return metrics.render({"small": SimpleNamespace(**fields), 'odd"\\\n': SimpleNamespace(**fields)}, cloud)


def exported() -> dict[str, set[str]]:
    """Name of each sample in /metrics -> names of its labels."""
    families = text_string_to_metric_families(rendered().decode())
    found: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def check(*arguments: str, text: bytes | None = None) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    data = None if text is None else text.decode()
    return subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, input=data, capture_output=True, text=True, timeout=60)


@needs_promtool
def test_metrics_keep_to_the_conventions() -> None:
    done = check("check", "metrics", text=rendered())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    for arguments in (("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml")):
        done = check(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in check("check", "config", "prometheus.yml").stdout


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    done = check("test", "rules", "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    alerts = re.findall(r"^ *- alert: (\w+)$", (FOLDER / "rules.yml").read_text(), re.MULTILINE)
    cases = re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", (FOLDER / "rules_test.yml").read_text())
    assert len(alerts) > 8 and sorted(alerts) == sorted(set(cases))


@needs_promtool
def test_the_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """Grafana fills in its variables; then Prometheus has to understand the rest."""
    queries = expressions(json.loads((FOLDER / "dashboard.json").read_text()))
    assert len(queries) > 20
    filled = [re.sub(r"\$(job|instance|model)\b", ".*", query.replace("$__rate_interval", "1m")) for query in queries]
    assert not [query for query in filled if "$" in query]
    rules = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate(filled)]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    done = check("check", "rules", "--lint=none", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["dashboard.json", "rules.yml", "rules_test.yml"])
def test_what_is_asked_for_is_exported(name: str) -> None:
    text = (FOLDER / name).read_text()
    there = exported()
    asked = set(NAME.findall(text)) - {"cactus_py"}
    assert len(asked) >= 10
    assert asked - set(there) == set()
    for metric, labels in re.findall(r"\b((?:cactus|process)_[a-z_]+)\{([^}]*)\}", text.replace('\\"', '"')):
        named = set(re.findall(r'(\w+)=~?"', labels)) - {"job", "instance"}
        assert named <= there[metric], (metric, named)


def test_the_dashboard_is_what_its_script_writes() -> None:
    made = runpy.run_path(str(FOLDER / "make_dashboard.py"))
    assert made["text"]() == (FOLDER / "dashboard.json").read_text()
    dashboard = made["dashboard"]()
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
