"""A provider's commands: invite, devices, earnings."""

from typing import Annotated

import typer

from billing.money import format_usd
from marketplace.cli.output import AsJson, command, show, table
from marketplace.client import Api


@command
def invite(uses: Annotated[int, typer.Option(help="How many devices it serves")] = 1, as_json: AsJson = False) -> None:
    """Make an invitation for a device of yours."""
    api = Api()
    found = api.call("POST", "/v1/invites", {"uses": uses})
    text = f"On the device, run:\n  spare join {api.url} --token {found['token']} --price 0.02"
    show({**found, "url": api.url}, as_json, lambda: text)


@command
def devices(as_json: AsJson = False) -> None:
    """List your devices, and why each lost its last clearing."""
    found = Api().call("GET", "/v1/devices")
    headings = ("device", "class", "speed", "asks /CU-h", "state", "lost clearings", "why")
    rows = [
        (
            d["name"],
            d["device_class"],
            f"{d['score_millis'] / 1000:.2f}",
            format_usd(d["reserve_micros_per_hour"]),
            "leased" if d["leased"] else "free",
            str(d["lost_clearings"]),
            (d["last_loss"] or {}).get("text", ""),
        )
        for d in found
    ]
    show(found, as_json, lambda: table("Devices", headings, rows, right=headings[2:4]))


@command
def earnings(
    onboard: Annotated[bool, typer.Option("--onboard", help="Print where to set up how you are paid")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what you have earned, and what is on its way."""
    api = Api()
    if onboard:
        link = api.call("POST", "/v1/earnings/onboarding")
        show(link, as_json, lambda: f"Set up how you are paid: {link['url']}")
        return
    found = api.call("GET", "/v1/earnings")
    text = ", ".join(
        f"{format_usd(found[key])} {word}"
        for key, word in (
            ("pending_micros", "being verified"),
            ("payable_micros", "payable"),
            ("in_flight_micros", "on its way"),
            ("paid_micros", "paid"),
        )
    )
    show(found, as_json, lambda: text + (f"\nNot paid out yet: {found['not_payable']}" if found["not_payable"] else ""))
