"""Reports: exact, adding up, tied to the ledger, the same bytes again, and safe to open in a spreadsheet."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import openpyxl
import pytest
from sqlmodel import Session

from billing import reports
from billing.connect import PayoutAccount
from billing.earnings import verify_lease
from billing.errors import Conflict, InvalidInput
from billing.ledger import Movement, balance_micros, post
from billing.payouts import reserve_due, send_due
from billing.sessions import Sessions, transaction
from billing.settled import SettledLease, record
from billing.wallets import capture, hold, release

AT = datetime(2026, 1, 1, tzinfo=UTC)
MONTH = {"start": AT, "end": datetime(2026, 2, 1, tzinfo=UTC)}


def settled(lease_id: str, provider_id: str, earning_micros: int, at: datetime, reason: str = "") -> SettledLease:
    """The facts of one settled lease."""
    return SettledLease(
        lease_id=lease_id,
        buyer_id="b",
        provider_id=provider_id,
        cluster_id="cl_1",
        device_id="dev_1",
        device_class="cpu-2c-4g.eu.open",
        rate_micros_per_hour=60_000,
        fee_bps=1_000,
        claimed_ms=600_000,
        verified_ms=590_000,
        unpaid_reason=reason,
        charge_micros=earning_micros + earning_micros // 10,
        earning_micros=earning_micros,
        fee_micros=earning_micros // 10,
        started_at=at - timedelta(minutes=10),
        ended_at=at,
        settled_at=at,
    )


def settle(session: Session, lease: SettledLease) -> None:
    """Run one lease from its hold to a payable earning."""
    at, lease_id, provider_id = lease.settled_at, lease.lease_id, lease.provider_id
    hold(session, lease_id=lease_id, buyer_id="b", amount_micros=lease.charge_micros + 7, at=at)
    totals = {"charge_total_micros": lease.charge_micros, "earning_total_micros": lease.earning_micros}
    capture(session, lease_id=lease_id, provider_id=provider_id, at=at, **totals)
    release(session, lease_id=lease_id, buyer_id="b", at=at)
    verify_lease(session, lease_id=lease_id, provider_id=provider_id, amount_micros=lease.earning_micros, at=at)
    record(session, lease)


@pytest.fixture
def january(sessions: Sessions, gateway: object) -> Sessions:
    """Two providers, three leases; ``p1`` was paid in January, and earned before and after its payout."""
    day = timedelta(days=1)
    with transaction(sessions) as session:
        movements = [Movement("stripe:pending", "buyer:b:available", 100_000_000)]
        post(session, key="topup", kind="topup", reference="t", movements=movements, at=AT)
        for provider_id in ("p1", "p2"):
            session.add(
                PayoutAccount(
                    provider_id=provider_id,
                    stripe_account_id=f"acct_{provider_id}",
                    country="DE",
                    not_payable="" if provider_id == "p1" else "rejected",
                    created_at=AT,
                )
            )
        settle(session, settled("l1", "p1", 6_001_234, AT + day, reason="=cmd|' /C calc'!A0"))
        settle(session, settled("l2", "p2", 1_000_001, AT + 2 * day))
        reserve_due(session, minimum_cents=500, at=AT + 3 * day)
    send_due(sessions, gateway, at=AT + 3 * day)  # type: ignore[arg-type]
    with transaction(sessions) as session:
        settle(session, settled("l3", "p1", 2_000_000, AT + 4 * day))
    return sessions


def test_summary_ties_to_the_ledger(january: Sessions) -> None:
    """opening + earned − paid = closing per provider and period, and all closings are what the ledger owes them."""
    with january() as session:
        frame = reports.summary(session, **MONTH)
        assert frame.to_dict("records") == [
            {"provider_id": "p1", "opening_micros": 0, "earned_micros": 8_001_234, "paid_micros": 6_000_000,
             "closing_micros": 2_001_234},
            {"provider_id": "p2", "opening_micros": 0, "earned_micros": 1_000_001, "paid_micros": 0,
             "closing_micros": 1_000_001},
        ]  # fmt: skip
        owed = sum(
            balance_micros(session, f"provider:{p}:{state}") for p in ("p1", "p2") for state in ("pending", "payable")
        )
        assert reports.totals(frame)["closing_micros"] == owed
        middle = AT + timedelta(days=3)
        first = reports.summary(session, start=AT, end=middle)
        second = reports.summary(session, start=middle, end=MONTH["end"])
        assert list(first["closing_micros"]) == list(second["opening_micros"])


def test_payout_lines_add_up_and_name_their_leases(january: Sessions) -> None:
    """gross + carried in = net + carried out, and the leases of a payout sum to its gross."""
    with january() as session:
        payouts = reports.payouts(session, **MONTH).to_dict("records")
        leases = reports.earnings(session, **MONTH)
    assert len(payouts) == 1
    line = payouts[0]
    assert (line["status"], line["net_cents"], line["lease_count"], line["verified_ms"]) == ("sent", 600, 1, 590_000)
    assert (line["gross_micros"], line["carried_out_micros"], line["transfer_id"]) == (6_001_234, 1_234, "tr_0")
    mine = leases[leases["payout_id"] == line["payout_id"]]
    assert list(mine["lease_id"]) == ["l1"]
    assert sum(mine["earning_micros"]) == line["gross_micros"]
    assert list(leases["lease_id"]) == ["l1", "l2", "l3"]


def test_earnings_of_one_provider_equal_the_ledger(january: Sessions) -> None:
    """A provider's itemised lines are its own only, and sum to what the summary says it earned."""
    with january() as session:
        mine = reports.earnings(session, **MONTH, provider_id="p1")
        assert reports.totals(mine)["earning_micros"] == 8_001_234
        assert set(mine["provider_id"]) == {"p1"}
        assert len(reports.earnings(session, start=AT - timedelta(days=9), end=AT)) == 0


def test_csv_is_the_same_again_exact_and_harmless(january: Sessions, tmp_path: Path) -> None:
    """The same period gives the same bytes; money is exact text, nobody's text is a formula, totals come last."""
    with january() as session:
        files = [
            reports.write(reports.earnings(session, **MONTH), tmp_path / str(n) / "earnings.csv", title="Earnings")
            for n in range(2)
        ]
    assert files[0].read_bytes() == files[1].read_bytes()
    lines = files[0].read_text().splitlines()
    assert "'=cmd|' /C calc'!A0" in lines[1]
    assert ",0.060000," in lines[1]
    assert ",6.001234," in lines[1]
    assert lines[-1].startswith("TOTAL of 3,")
    assert ",9.001235," in lines[-1]


def test_xlsx_opens_with_text_money_and_no_formulas(january: Sessions, tmp_path: Path) -> None:
    """The spreadsheet has one sheet of the given title, every cell a value, and the money as exact text."""
    with january() as session:
        path = reports.write(reports.earnings(session, **MONTH), tmp_path / "e.xlsx", title="Earnings 2026/01")
    sheet = openpyxl.load_workbook(path)["Earnings 2026-01"]
    assert "f" not in {cell.data_type for row in sheet.iter_rows() for cell in row}
    column = [cell.value for cell in sheet[1]].index("earning_usd")
    assert [row[column].value for row in sheet.iter_rows(min_row=2)] == ["6.001234", "1.000001", "2.000000", "9.001235"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1"])
def test_every_start_of_a_formula_is_defused(text: str) -> None:
    """Text that a spreadsheet could run is shown as text."""
    assert str(reports._cell(text)).startswith("'")


def test_big_integers_and_empty_reports(session: Session, tmp_path: Path) -> None:
    """Integers that a spreadsheet would round are text; a period without events is a file with totals of 0."""
    assert reports._cell(2**53 + 1) == str(2**53 + 1)
    for frame in (reports.payouts(session, **MONTH), reports.summary(session, **MONTH)):
        assert "TOTAL of 0" in reports.write(frame, tmp_path / "empty.csv", title="x").read_text()


def test_refusals(session: Session, tmp_path: Path) -> None:
    """Times without a zone and unknown kinds of file are refused; so is settling a lease twice with other facts."""
    with pytest.raises(InvalidInput):
        reports.summary(session, start=datetime(2026, 1, 1), end=AT)
    with pytest.raises(InvalidInput):
        reports.write(reports.summary(session, **MONTH), tmp_path / "x.pdf", title="x")
    record(session, settled("l", "p", 10, AT))
    record(session, settled("l", "p", 10, AT + timedelta(0)))
    with pytest.raises(Conflict):
        record(session, settled("l", "p", 11, AT))
