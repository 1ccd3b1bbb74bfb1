"""The API's documentation as one plain page, without anything from outside."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f3f3f3; border-radius: 4px }
code { padding: .1em .3em } pre { padding: .8rem; overflow-x: auto }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem }
"""


def docs_page(api: dict[str, Any]) -> tuple[str, str]:
    """A page of an OpenAPI description, and the content security policy that fits it."""
    parts = [
        f"<h1>{html.escape(api['info']['title'])} {html.escape(api['info']['version'])}</h1>",
        f"<p>{html.escape(api['info'].get('description', ''))}</p>",
        '<p>Machines read <a href="openapi.json">openapi.json</a>. Guarded addresses want the header '
        "<code>Authorization: Bearer KEY</code>.</p>",
    ]
    for path, methods in api["paths"].items():
        for method, what in methods.items():
            parts.append(_endpoint(method, path, what, api))
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>minusface API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'; base-uri 'none'"
    )
    return page, policy


def _endpoint(method: str, path: str, what: dict[str, Any], api: dict[str, Any]) -> str:
    said = [f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"]
    said.append(f"<p>{html.escape(what.get('description', ''))}</p>")
    for parameter in what.get("parameters", []):
        words = html.escape(parameter.get("description", ""))
        name, place = html.escape(parameter["name"]), html.escape(parameter["in"])
        said.append(f"<p><code>{name}</code> ({place}) {words}</p>")
    body = what.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        said.append(f"<p>Takes</p>{_schema(body, api)}")
    answer = what["responses"].get("200", {}).get("content", {}).get("application/json", {})
    if "schema" in answer:
        said.append(f"<p>Gives</p>{_schema(answer['schema'], api)}")
    return "".join(said)


def _schema(schema: dict[str, Any], api: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    found = api["components"]["schemas"].get(name, schema)
    return f"<pre>{html.escape(json.dumps(found.get('properties', found), indent=1))}</pre>"
