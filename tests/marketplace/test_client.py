"""What people hold in their hands: the notebook's client and the command line, against a live server."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from sqlmodel import func, select
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from billing.errors import InvalidInput
from billing.ids import now_utc
from billing.stripe_gateway import StripeGateway
from billing.testing.running import RunningFake
from billing.testing.state import FakeConfig
from marketplace import Market, MarketError, Receipt, accounts
from marketplace.api.app import create_app
from marketplace.cli import app
from marketplace.context import Context, ensure_operator
from marketplace.database import transaction
from marketplace.settings import Settings
from tests.marketplace.conftest import OPERATOR_KEY, T0, Floor, NoGateway, Person, later


@pytest.fixture
def url(context: Context) -> Iterator[str]:
    """A live server's URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(context), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)


class Terminal:
    """``spare`` with one person's key."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, key: str, *arguments: str) -> Result:
        return CliRunner().invoke(
            app, list(arguments), env={"SPARE_URL": self.url, "SPARE_API_KEY": key, "COLUMNS": "200"}
        )

    def json(self, key: str, *arguments: str) -> Any:
        result = self.run(key, *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def terminal(url: str) -> Terminal:
    return Terminal(url)


def settled_lease(floor: Floor, provider: Person, buyer: Person, name: str) -> str:
    """A cluster with one settled lease on a device of that name."""
    floor.device(provider, name=name)
    cluster = floor.cluster(buyer, name="[/b]")
    (node,) = floor.bid(cluster)
    floor.tick(T0)
    floor.report(cluster, node, range(3, 63), at=later(62), probes=range(5, 61, 5))
    floor.step(later(60))
    floor.settle(later(62))
    return cluster


def test_errors_carry_a_hint(floor: Floor, url: str) -> None:
    """What the market refuses reaches the notebook as one error with its status, its words, and what to do."""
    poor = floor.person("buyer")
    with pytest.raises(MarketError) as refused:
        Market(url, poor.keys["buyer"]).cluster(max_price="0.05/h", budget="$2")
    assert refused.value.status == 402
    assert refused.value.hint == "top up first: spare wallet top-up 5"
    assert refused.value.hint in str(refused.value)
    with pytest.raises(MarketError, match="not known") as refused:
        Market(url, "wrong").wallet()
    assert (refused.value.status, refused.value.hint) == (401, "check SPARE_API_KEY")
    with pytest.raises(MarketError, match="does not answer") as refused:
        Market("http://127.0.0.1:9", "k").wallet()
    assert (refused.value.status, refused.value.hint) == (0, "is it running? set SPARE_URL")


def test_prices_are_exact(floor: Floor, url: str) -> None:
    """Prices are read to the micro-dollar without floats; what is not a price is refused before anything is sent."""
    market = Market(url, floor.buyer().keys["buyer"])
    made = market.cluster(max_price="0.050001/h", budget="$2.000001", nodes=3, lease_seconds=30).status()
    assert (made["max_price_micros_per_hour"], made["budget_micros"], made["lease_ms"]) == (50_001, 2_000_001, 30_000)
    assert (made["max_nodes"], made["state"], made["committed_micros"]) == (3, "starting", 0)
    for bad in ("free", "-1", "1e3", "0.0000001", "", "1,5", "NaN"):
        with pytest.raises(InvalidInput, match="not an amount"):
            market.cluster(max_price=bad, budget="1")
    with pytest.raises(InvalidInput, match="whole number of cents"):
        market.top_up("0.005")
    assert "$100.000000 of credit" in repr(market)


def test_cluster_in_a_notebook(floor: Floor, url: str) -> None:
    """A cluster shows its state and its events as text and as HTML, in which a name is never markup."""
    floor.device(floor.person("provider"), name="<script>alert(1)</script>")
    buyer = floor.buyer()
    found = Market(url, buyer.keys["buyer"]).open_cluster(floor.cluster(buyer))
    floor.bid(found.id)
    floor.tick(T0)
    assert "running: 0 nodes run, 0 wait; $0.660000 of $50.00" in repr(found)
    html = found._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert [event["kind"] for event in found.events()] == ["opened", "bid", "awarded"]
    assert found.events(after=found.events()[-1]["id"]) == []


def test_receipt_in_a_notebook(floor: Floor, url: str) -> None:
    """A receipt is data, text and HTML with the same numbers; a device's name is never markup."""
    buyer = floor.buyer()
    cluster = settled_lease(floor, floor.person("provider"), buyer, "<b>x</b>")
    found = Market(url, buyer.keys["buyer"]).open_cluster(cluster).receipt()
    assert not found.final
    assert found.charge_micros == 605_000
    assert str(found) == f"Receipt {cluster} (so far): $0.605000 charged"
    assert [row[0] for row in found.rows()] == ["<b>x</b>", "total"]
    assert found.rows()[0][-3:] == found.rows()[1][-3:]
    html = found._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<b>x" not in html
    assert Receipt(json.loads(found.to_json())) == found


def test_commands_speak_json(floor: Floor, terminal: Terminal, tmp_path: Path) -> None:
    """Every command that shows something prints valid JSON with --json, the same data as the API's."""
    people = terminal.json(
        OPERATOR_KEY,
        "account",
        "create",
        "Ada",
        "--email",
        "a@b",
        "--country",
        "DE",
        "--role",
        "provider",
        "--role",
        "buyer",
    )
    provider = Person(people["account_id"], people["keys"])
    assert terminal.json(OPERATOR_KEY, "account", "vet", provider.id)["vetted"]
    buyer, key = floor.buyer(), ""
    key = buyer.keys["buyer"]
    cluster = settled_lease(floor, provider, buyer, "mill")
    assert terminal.json(key, "wallet", "show") == {"available_micros": 100_000_000 - 605_000, "held_micros": 0}
    assert [c["cluster_id"] for c in terminal.json(key, "cluster", "list")] == [cluster]
    assert terminal.json(key, "cluster", "show", cluster)["events"][0]["kind"] == "opened"
    assert terminal.json(key, "why", cluster)["waiting"] == []
    assert (
        terminal.json(key, "receipt", cluster, "--output", str(tmp_path / "r.json"))["totals"]["charge_micros"]
        == 605_000
    )
    assert json.loads((tmp_path / "r.json").read_text())["cluster_id"] == cluster
    assert terminal.json(key, "market")["fee_bps"] == 1000
    invited = terminal.json(provider.keys["provider"], "invite")
    assert invited["token"].startswith("join_")
    assert invited["url"] == terminal.url
    assert [d["name"] for d in terminal.json(provider.keys["provider"], "devices")] == ["mill"]
    assert terminal.json(provider.keys["provider"], "earnings")["pending_micros"] == 550_000
    assert terminal.json(OPERATOR_KEY, "ledger", "check")["ok"]
    assert terminal.json(OPERATOR_KEY, "payout", "run") == []
    assert terminal.json(OPERATOR_KEY, "payout", "list") == []
    wrote = terminal.json(OPERATOR_KEY, "report", "summary", "--output", str(tmp_path / "s.csv"))
    assert wrote["bytes"] == (tmp_path / "s.csv").stat().st_size > 0


def test_commands_speak_to_people(floor: Floor, terminal: Terminal) -> None:
    """The same commands print tables and lines in which names stand as they are, whatever brackets they hold."""
    provider, buyer = floor.person("provider"), floor.buyer()
    cluster = settled_lease(floor, provider, buyer, "[/red]mill[bold]")
    floor.device(provider, at=now_utc(), name="present")
    key = buyer.keys["buyer"]
    for arguments, words in (
        (("cluster", "list"), ("[/b]", "running")),
        (("cluster", "show", cluster), ("awarded [/red]mill[bold]",)),
        (("why", cluster), ("no task asks for a node",)),
        (("receipt", cluster), ("[/red]mill[bold]", "0.605000", "joining: not ready yet")),
        (("market",), ("Fee 10.0 %", "cpu-2c-4g.eu.vetted")),
        (("wallet", "show"), ("$99.395000 to spend",)),
    ):
        result = terminal.run(key, *arguments)
        assert result.exit_code == 0, result.output
        for word in words:
            assert word in result.output, (arguments, result.output)
    shown = terminal.run(provider.keys["provider"], "devices")
    assert "[/red]mill[bold]" in shown.output
    assert "Trial balance: debits − credits = $0.000000" in terminal.run(OPERATOR_KEY, "ledger", "check").output


def test_commands_fail_with_a_hint(floor: Floor, terminal: Terminal) -> None:
    """A refused command ends with exit code 1 and says on stderr what happened and what to do; stdout stays empty."""
    poor = floor.person("buyer")
    for arguments, message, hint in (
        (("cluster", "open", "--max-price", "0.05", "--budget", "2"), "no credit to spend", "spare wallet top-up 5"),
        (("cluster", "open", "--max-price", "cheap", "--budget", "2"), "not an amount", "write it like $5 or 0.05"),
        (("why", "cl_unknown"), "no cluster 'cl_unknown'", ""),
        (("ledger", "check"), "a buyer key cannot do this", "use a key with the role finance or operator"),
    ):
        result = terminal.run(poor.keys["buyer"], *arguments, "--json")
        assert result.exit_code == 1, arguments
        assert result.stdout == ""
        assert message in result.stderr
        assert hint in result.stderr


@pytest.fixture
def gateway(request: pytest.FixtureRequest) -> Any:
    """The real gateway against the fake for the test that pays; none for the others."""
    if "stripe_fake" not in request.fixturenames:
        return NoGateway()
    fake: RunningFake = request.getfixturevalue("stripe_fake")
    return StripeGateway(
        "sk_test_fake",
        api_base=fake.url,
        webhook_secret=FakeConfig.webhook_secret,
        connect_webhook_secret=FakeConfig.connect_webhook_secret,
    )


def test_top_up(stripe_fake: RunningFake, floor: Floor, terminal: Terminal) -> None:
    """A top-up credits the wallet once, when it is paid and not before; nobody else sees it."""
    buyer, stranger = floor.person("buyer"), floor.person("buyer")
    key = buyer.keys["buyer"]
    started = terminal.json(key, "wallet", "top-up", "12.50")
    assert (started["status"], started["amount_cents"]) == ("open", 1250)
    market = Market(terminal.url, key)
    assert market.top_up_status(started["topup_id"]) == "open"
    assert market.wallet()["available_micros"] == 0
    httpx.post(started["url"], data={"outcome": "paid"}, trust_env=False)
    for _ in range(2):
        assert market.top_up_status(started["topup_id"]) == "paid"
        assert market.wallet()["available_micros"] == 12_500_000
    with pytest.raises(MarketError) as refused:
        Market(terminal.url, stranger.keys["buyer"]).top_up_status(started["topup_id"])
    assert refused.value.status == 404
    refused_ = terminal.run(key, "wallet", "top-up", "0.10")
    assert refused_.exit_code == 1
    assert "$0.50 to $10000.00" in refused_.stderr


def test_onboarding_and_webhooks(stripe_fake: RunningFake, floor: Floor, terminal: Terminal) -> None:
    """A provider is sent to where it says how it is paid; an event that Stripe did not sign is refused."""
    provider = floor.person("provider")
    link = terminal.json(provider.keys["provider"], "earnings", "--onboard")
    assert link["url"].startswith(stripe_fake.url)
    answer = floor.client.post(
        "/v1/stripe/webhooks/platform", content=b'{"id":"evt_1"}', headers={"stripe-signature": "t=1,v1=00"}
    )
    assert answer.status_code == 400
    assert floor.client.post("/v1/stripe/webhooks/other", content=b"{}").status_code == 422


def count_accounts(floor: Floor) -> int:
    with floor.sessions() as session:
        return session.exec(select(func.count()).select_from(accounts.Account)).one()


def test_first_operator_key(settings: Settings, context: Context, floor: Floor) -> None:
    """The operator's key is made once and stays; when it was revoked, a start says what to do and adds nobody."""
    for _ in range(2):
        ensure_operator(context, at=T0)
    with transaction(floor.sessions) as session:
        found = accounts.authenticate(session, f"Bearer {OPERATOR_KEY}")
        assert found.role == "operator"
    other = Context(
        settings.model_copy(update={"operator_key": SecretStr("")}), context.sessions, context.gateway, b"x"
    )
    for _ in range(2):
        ensure_operator(other, at=T0)
    written = (settings.home / "operator.key").read_text()
    assert written.startswith("spare_operator_")
    assert oct((settings.home / "operator.key").stat().st_mode & 0o777) == "0o600"
    with transaction(floor.sessions) as session:
        caller = accounts.authenticate(session, f"Bearer {written}")
        assert caller.role == "operator"
        found = accounts.authenticate(session, f"Bearer {OPERATOR_KEY}")
        accounts.revoke_key(session, found, caller.key_id, at=T0)
    before = count_accounts(floor)
    with capture_logs() as logs:
        ensure_operator(other, at=T0)
    (line,) = logs
    assert (line["log_level"], line["place"]) == ("warning", str(settings.home / "operator.key"))
    assert "put another operator's key there" in line["hint"]
    assert count_accounts(floor) == before
    assert (settings.home / "operator.key").read_text() == written


def test_key_commands(floor: Floor, terminal: Terminal) -> None:
    """`spare key` makes a key, shows it once, lists what there is, and ends the old one with the new one."""
    person = floor.person("buyer")
    old = person.keys["buyer"]
    new = terminal.run(old, "key", "create", "buyer").stdout.strip()
    rows = terminal.json(new, "key", "list")
    assert {row["last_four"] for row in rows} == {old[-4:], new[-4:]}
    old_id = next(row["key_id"] for row in rows if row["last_four"] == old[-4:])
    assert new not in terminal.run(new, "key", "list").stdout
    assert terminal.json(OPERATOR_KEY, "key", "list", "--account", person.id) == rows
    assert f"ends in {old[-4:]} is revoked" in terminal.run(new, "key", "revoke", old_id).stdout
    assert terminal.run(old, "key", "list").exit_code == 1
    assert "finance key" in terminal.run(new, "key", "create", "finance").stderr
