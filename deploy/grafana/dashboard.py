#!/usr/bin/env python3
"""Prints dashboard.json: `deploy/grafana/dashboard.py > deploy/grafana/dashboard.json`. A panel is one line below; .ci/observability
holds that the file is what this prints, and that a real Prometheus has data for every query."""

import json

P = "linksfield_gateway_"
S = "{job=~\"$job\",instance=~\"$instance\"}"


def q(text):
    """Queries in short: NAME{labels} gets its prefix, and the dashboard's variables as matchers."""
    out = []
    for word in text.split("@"):
        if not out:
            out.append(word)
            continue
        name_end = next((i for i, c in enumerate(word) if not (c.isalnum() or c == "_")), len(word))
        name, rest = word[:name_end], word[name_end:]
        prefix = "" if name.startswith("process_") else P
        if rest.startswith("{"):
            rest = S[:-1] + "," + rest[1:]
        else:
            rest = S + rest
        out.append(prefix + name + rest)
    return "".join(out)


# Title, type, unit, width, description, and queries with their legends.
ROWS = [
    ("Are callers served?", [
        ("Requests that got what they asked for", "stat", "percentunit", 4, "All but those that failed through no fault of their caller. The objective is 99 %.",
         [("1 - sum(rate(@failed_requests_total{fault!=\"caller\"}[$__rate_interval])) / sum(rate(@request_duration_seconds_count[$__rate_interval]))", "served")]),
        ("Is it us or Linksfield?", "timeseries", "reqps", 8, "Failed requests by whose fault it was: gateway is no room, no turn, no budget, a brake or a secret; upstream is Linksfield or the way there.",
         [("sum by (fault) (rate(@failed_requests_total[$__rate_interval]))", "{{fault}}")]),
        ("Calls left of the day", "stat", "short", 4, "What Linksfield takes today from all processes shown; day_queries is what queries may use of it.",
         [("sum by (window) (@quota_remaining{window=~\"day|day_queries\"})", "{{window}}")]),
        ("More calls come in", "stat", "s", 4, "When the day ends, or when the oldest calls of a rolling day are a day old.",
         [("min(@quota_reset_timestamp_seconds{window=\"day\"}) - time()", "until more")]),
        ("Left when more come", "stat", "short", 4, "Of what queries may use, at the pace of the last hour, in the process that has least; at 0 and below, queries get 429.",
         [("min(@:quota_day_queries_left:forecast)", "forecast")]),
        ("Who spends the calls", "timeseries", "reqps", 8, "Calls of Linksfield by tenant.",
         [("sum by (tenant) (rate(@upstream_requests_total[$__rate_interval]))", "{{tenant}}")]),
        ("How old are the answers?", "timeseries", "s", 8, "Age of pages from memory: the median, and what one in a hundred exceeds.",
         [("histogram_quantile(0.5, sum by (le) (rate(@served_age_seconds_bucket[$__rate_interval])))", "median"),
          ("histogram_quantile(0.99, sum by (le) (rate(@served_age_seconds_bucket[$__rate_interval])))", "99 %")]),
        ("Commands in doubt", "stat", "short", 4, "Commands that left and ended as 5xx, 408, a transient code, cut, timed out, too large or unreadable, or as the answer that nothing classifies while that is the usual one, within the time shown; and the keys in doubt now, with those found at a start. Look what they did before any is repeated: docs/runbook.md.",
         [("sum by (route, tenant) (increase(@commands_unknown_outcome_total[$__range])) > 0", "{{tenant}} {{route}}"),
          ("sum(@idempotency_keys{state=\"in_doubt\"})", "keys now")]),
        ("One version and configuration?", "table", "short", 4, "How many processes run which version and which configuration. More than one row of each: a change has not reached all.",
         [("count by (version, revision) (@build_info)", "{{version}} {{revision}}"),
          ("count by (hash) (@config_info)", "{{hash}}")]),
    ]),
    ("Traffic", [
        ("Requests by result", "timeseries", "reqps", 8, "hit, stale and coalesced needed no call of their own.",
         [("sum by (result) (rate(@request_duration_seconds_count[$__rate_interval]))", "{{result}}")]),
        ("Requests by route", "timeseries", "reqps", 8, "other are paths that are not configured, and what was refused before its path was read.",
         [("sum by (route) (rate(@request_duration_seconds_count[$__rate_interval]))", "{{route}}")]),
        ("Errors of the gateway by code", "timeseries", "reqps", 8, "docs/errors.md has a paragraph for each code.",
         [("sum by (code) (rate(@errors_total[$__rate_interval])) > 0", "{{code}}")]),
        ("How long requests take", "timeseries", "s", 8, "Median and 99 % of those answered from memory, and of those that waited for Linksfield.",
         [("histogram_quantile(0.5, sum by (le) (rate(@request_duration_seconds_bucket{result=~\"hit|stale\"}[$__rate_interval])))", "memory, median"),
          ("histogram_quantile(0.99, sum by (le) (rate(@request_duration_seconds_bucket{result=~\"hit|stale\"}[$__rate_interval])))", "memory, 99 %"),
          ("histogram_quantile(0.99, sum by (le) (rate(@request_duration_seconds_bucket{result=~\"miss|coalesced|bypass|command\"}[$__rate_interval])))", "Linksfield, 99 %")]),
        ("Requests in flight and connections", "timeseries", "short", 8, "Of callers.",
         [("sum(@requests_in_flight)", "requests"), ("sum(@connections)", "connections")]),
        ("Unlisted paths", "timeseries", "reqps", 8, "Requests of paths that are not configured: forwarded as commands, or refused.",
         [("sum(rate(@unlisted_paths_total[$__rate_interval]))", "unlisted")]),
    ]),
    ("Cache", [
        ("Hit ratio", "timeseries", "percentunit", 8, "Of the queries, those that needed no call of their own.",
         [("@:hit_ratio:rate5m", "{{route}}")]),
        ("Calls saved in a day", "stat", "short", 8, "Queries of the last 24 hours that needed no call of their own, by why.",
         [("@:calls_saved:increase1d", "{{reason}}")]),
        ("Pages in memory", "timeseries", "bytes", 8, "Bytes, and their bound in one process.",
         [("sum by (instance) (@cache_bytes)", "{{instance}}"), ("max(@cache_capacity_bytes)", "bound")]),
        ("Pages", "timeseries", "short", 8, "How many are in memory, and how many fills run.",
         [("sum(@cache_entries)", "pages"), ("sum(@fills_in_flight)", "fills")]),
        ("Pages that went", "timeseries", "ops", 8, "Dropped for want of room, and made unfindable by commands and purges.",
         [("sum(rate(@cache_evictions_total[$__rate_interval]))", "evicted"),
          ("sum by (cause) (rate(@invalidations_total[$__rate_interval]))", "invalidated by {{cause}}")]),
    ]),
    ("Linksfield", [
        ("Calls by outcome", "timeseries", "reqps", 8, "What came of them: the meaning of the answer, or the code of the error.",
         [("sum by (outcome) (rate(@upstream_requests_total[$__rate_interval]))", "{{outcome}}")]),
        ("Calls by reason", "timeseries", "reqps", 8, "Why they were made.",
         [("sum by (reason) (rate(@upstream_requests_total[$__rate_interval]))", "{{reason}}")]),
        ("How long Linksfield takes", "timeseries", "s", 8, "From the permit of a call to its answer.",
         [("histogram_quantile(0.5, sum by (le) (rate(@upstream_request_duration_seconds_bucket[$__rate_interval])))", "median"),
          ("histogram_quantile(0.99, sum by (le) (rate(@upstream_request_duration_seconds_bucket[$__rate_interval])))", "99 %")]),
        ("Failing calls", "timeseries", "percentunit", 8, "Of the calls that say something about Linksfield, those that say that it fails.",
         [("@:upstream_failure_ratio:rate5m", "failing")]),
        ("Breaker and thrift", "timeseries", "short", 8, "Processes that have stopped asking, and the highest level of thrift (4: no query is asked).",
         [("sum(@upstream_breaker_open)", "breakers open"), ("max(@thrift_level)", "thrift")]),
        ("Waiting and under way", "timeseries", "short", 8, "Calls that wait for their turn by class, and calls under way by HTTP version.",
         [("sum by (class) (@queue_length)", "{{class}} waits"), ("sum by (protocol) (@upstream_requests_in_flight)", "{{protocol}} under way")]),
        ("Connections to Linksfield", "timeseries", "short", 8, "By HTTP version, those that are held by calls whose time has passed, and the bound.",
         [("sum by (protocol) (@upstream_connections)", "{{protocol}}"), ("sum(@upstream_slots_held)", "held"), ("sum(@quota_limit{window=\"connections\"})", "bound")]),
        ("Rate that is allowed", "timeseries", "reqps", 8, "The limit less what throttling has taken, and what is left of this second.",
         [("sum(@quota_allowed_rate)", "allowed"), ("sum(@quota_remaining{window=\"second\"})", "left of this second")]),
        ("Throttled, retried, not understood", "timeseries", "ops", 8, "429 although by our count there is room; queries asked again; codes that the configuration does not know; answers encoded unasked.",
         [("sum(rate(@upstream_foreign_throttles_total[$__rate_interval]))", "foreign throttles"), ("sum(rate(@upstream_retries_total[$__rate_interval]))", "retries"),
          ("sum(rate(@upstream_unknown_codes_total[$__rate_interval]))", "unknown codes"),
          ("sum(rate(@upstream_encoded_answers_total[$__rate_interval]))", "encoded")]),
        ("Clock skew", "timeseries", "s", 8, "How far Linksfield's clock is ahead of ours.",
         [("@upstream_clock_skew_seconds", "{{instance}}")]),
        ("Certificate", "stat", "dateTimeAsIso", 8, "When Linksfield's certificate ends.",
         [("min(@upstream_certificate_expiry_timestamp_seconds) * 1000", "ends")]),
    ]),
    ("Tenants and callers", [
        ("Requests by tenant", "timeseries", "reqps", 8, "other are those refused before their tenant was known.",
         [("sum by (tenant) (rate(@tenant_requests_total[$__rate_interval]))", "{{tenant}}")]),
        ("Requests by caller", "timeseries", "reqps", 8, "other are those without a caller's token.",
         [("sum by (caller) (rate(@requests_total[$__rate_interval]))", "{{caller}}")]),
        ("Commands by tenant", "timeseries", "reqps", 8, "They may cost money.",
         [("sum by (tenant) (rate(@tenant_requests_total{result=\"command\"}[$__rate_interval]))", "{{tenant}}")]),
        ("Bad signatures by tenant", "timeseries", "reqps", 8, "A rotation brings a few.",
         [("sum by (tenant) (rate(@upstream_bad_signatures_total[$__rate_interval]))", "{{tenant}}")]),
        ("Secrets", "table", "short", 8, "Whether each tenant's secrets could be used when they were last read, and switches to the other one in the time shown.",
         [("min by (tenant) (@secret_last_reload_successful)", "{{tenant}} usable"), ("sum by (tenant) (increase(@secret_switches_total[$__range]))", "{{tenant}} switches")]),
        ("Idempotency keys", "timeseries", "short", 8, "By what is known of their commands.",
         [("sum by (state) (@idempotency_keys)", "{{state}}")]),
        ("Replays, and keys not saved", "timeseries", "ops", 8, "Commands that got the answer of an earlier one; keys that could not be written.",
         [("sum(rate(@idempotency_replays_total[$__rate_interval]))", "replays"), ("sum(rate(@idempotency_save_failures_total[$__rate_interval]))", "not saved")]),
    ]),
    ("Process", [
        ("Memory", "timeseries", "bytes", 8, "Resident, and what the system lets the process have.",
         [("@process_resident_memory_bytes and on (job, instance) @build_info", "{{instance}}"), ("@memory_limit_bytes", "{{instance}} bound")]),
        ("CPU", "timeseries", "percentunit", 8, "Of one core.",
         [("rate(@process_cpu_seconds_total[$__rate_interval]) and on (job, instance) @build_info", "{{instance}}")]),
        ("Open files", "timeseries", "short", 8, "Connections are files too.",
         [("@process_open_fds and on (job, instance) @build_info", "{{instance}}"), ("@process_max_fds and on (job, instance) @build_info", "{{instance}} bound")]),
        ("Runs since", "stat", "s", 8, "How long the youngest process runs.",
         [("time() - max(@process_start_time_seconds and on (job, instance) @build_info)", "youngest")]),
        ("Configuration and state", "timeseries", "short", 8, "At 0, a restart would fail; failing is the directory of state.",
         [("min(@config_last_reload_successful)", "configuration usable"), ("sum(@secrets_refused)", "secrets refused"), ("sum(@state_store_failing)", "stores failing")]),
    ]),
]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def recorded(expression):
    """A recording rule's name stands alone."""
    start = expression.find("@:")
    return expression if start < 0 else expression.replace("@:", P[:-1] + ":")


def panel(number, place, title, kind, unit, width, description, queries):
    height = 8
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": q(recorded(expression)),
            "legendFormat": legend,
            **({"instant": True, "format": "table"} if kind == "table" else {"instant": kind == "stat", "range": kind != "stat"}),
        }
        for index, (expression, legend) in enumerate(queries)
    ]
    options = {"timeseries": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi", "sort": "desc"}},
               "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "none", "graphMode": "none", "textMode": "auto"},
               "table": {"showHeader": True}}[kind]
    return {
        "id": number, "type": kind, "title": title, "description": description, "datasource": DATASOURCE,
        "gridPos": {"x": place[0], "y": place[1], "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, **({"min": 0} if kind == "timeseries" and title != "Clock skew" else {})}, "overrides": []},
        "options": options, "targets": targets,
    }


def panels():
    number, y = 0, 0
    for row, content in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        x, y = 0, y + 1
        for title, kind, unit, width, description, queries in content:
            if x + width > 24:
                x, y = 0, y + 8
            number += 1
            yield panel(number, (x, y), title, kind, unit, width, description, queries)
            x += width
        y += 8


def variable(name, label):
    source = f"label_values({P}build_info, {name})"
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "query": {"query": source, "refId": name}, "definition": source,
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


DASHBOARD = {
    "uid": "linksfield-gateway", "title": "linksfield-gateway", "tags": ["linksfield"], "schemaVersion": 39, "editable": True, "graphTooltip": 1,
    "time": {"from": "now-6h", "to": "now"}, "refresh": "1m",
    "templating": {"list": [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}},
        variable("job", "Job"), variable("instance", "Process"),
    ]},
    "panels": list(panels()),
}

print(json.dumps(DASHBOARD, indent=1, ensure_ascii=False))
