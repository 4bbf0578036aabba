"""What finance gets: payouts, earnings and summaries as frames, and as files that come out the same every time.

Frames hold integers (``*_micros``, ``*_cents``, ``*_ms``) and UTC times. Files show micro-dollars as exact decimal
text (``*_usd``) and end with a line of control totals.
"""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from sqlmodel import Session

from billing.errors import Breach, InvalidInput
from billing.money import decimal_text
from billing.sessions import run_sql

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")

_PAYOUTS = r"""
SELECT payout.id AS payout_id, payout.provider_id, payout_account.country, payout.stripe_account_id,
  payout.transfer_id, payout.destination_payment_id, payout.status, payout.created_at, payout.sent_at,
  lines.period_start, lines.period_end, payout.currency, payout.gross_micros, payout.carried_in_micros,
  payout.carried_out_micros, payout.amount_cents * 10000 AS net_micros, payout.amount_cents AS net_cents,
  coalesce(lines.claimed_ms, 0)::bigint AS claimed_ms, coalesce(lines.verified_ms, 0)::bigint AS verified_ms,
  coalesce(lines.lease_count, 0) AS lease_count, journal.id AS journal_id, payout.failure
FROM payout
LEFT JOIN payout_account USING (provider_id)
LEFT JOIN ledger_journal AS journal ON journal.key =
  CASE payout.status WHEN 'reserved' THEN 'payout\:reserve:' WHEN 'sent' THEN 'payout\:sent:' ELSE 'payout\:void:' END
  || payout.id
LEFT JOIN (
  SELECT payout_id, count(*) AS lease_count, min(started_at) AS period_start, max(ended_at) AS period_end,
    sum(claimed_ms) AS claimed_ms, sum(verified_ms) AS verified_ms
  FROM lease_earning LEFT JOIN settled_lease USING (lease_id) GROUP BY payout_id
) AS lines ON lines.payout_id = payout.id
WHERE payout.created_at >= :start AND payout.created_at < :end
ORDER BY payout.created_at, payout.id
"""

_EARNINGS = """
SELECT lease.lease_id, lease.provider_id, lease.buyer_id, lease.cluster_id, lease.device_id, lease.device_class,
  lease.started_at, lease.ended_at, lease.settled_at, lease.claimed_ms, lease.verified_ms,
  greatest(lease.claimed_ms - lease.verified_ms, 0) AS unpaid_ms, lease.unpaid_reason,
  lease.rate_micros_per_hour, lease.fee_bps, lease.charge_micros, lease.fee_micros, lease.earning_micros,
  earning.payable_at, earning.payout_id, payout.status AS payout_status, payout.transfer_id
FROM settled_lease AS lease
LEFT JOIN lease_earning AS earning USING (lease_id)
LEFT JOIN payout ON payout.id = earning.payout_id
WHERE lease.settled_at >= :start AND lease.settled_at < :end
  AND (CAST(:provider_id AS text) = '' OR lease.provider_id = :provider_id)
ORDER BY lease.settled_at, lease.lease_id
"""

# What we owe a provider is pending + payable + in flight. Opening and closing are sums over those accounts; earned and
# paid come from the journals that leave them. That the two agree is the control.
_SUMMARY = r"""
WITH owned AS (
  SELECT name, split_part(name, ':', 2) AS provider_id FROM ledger_account WHERE name LIKE 'provider:%'
  UNION ALL SELECT 'payout:' || id || '\:in_flight', provider_id FROM payout
),
moved AS (
  SELECT provider_id, kind, posted_at, amount_micros AS micros
  FROM owned JOIN ledger_transfer ON credit_account = name JOIN ledger_journal AS journal ON journal.id = journal_id
  UNION ALL
  SELECT provider_id, kind, posted_at, -amount_micros
  FROM owned JOIN ledger_transfer ON debit_account = name JOIN ledger_journal AS journal ON journal.id = journal_id
)
SELECT provider_id,
  coalesce(sum(micros) FILTER (WHERE posted_at < :start), 0)::bigint AS opening_micros,
  coalesce(sum(micros) FILTER (WHERE posted_at >= :start AND kind = 'usage'), 0)::bigint AS earned_micros,
  coalesce(-sum(micros) FILTER (WHERE posted_at >= :start AND kind = 'payout\:sent'), 0)::bigint AS paid_micros,
  sum(micros)::bigint AS closing_micros
FROM moved
WHERE posted_at < :end
GROUP BY provider_id ORDER BY provider_id
"""


def payouts(session: Session, *, start: datetime, end: datetime) -> pd.DataFrame:
    """Return one line for each payout made in ``start`` ≤ time < ``end``: gross + carried in = net + carried out."""
    frame = _frame(session, _PAYOUTS, start, end)
    off = frame["gross_micros"] + frame["carried_in_micros"] - frame["net_micros"] - frame["carried_out_micros"]
    if off.any():
        raise Breach(f"payouts that do not add up: {list(frame.loc[off != 0, 'payout_id'])}")
    return frame


def earnings(session: Session, *, start: datetime, end: datetime, provider_id: str = "") -> pd.DataFrame:
    """Return one line for each lease settled in ``start`` ≤ time < ``end``, of one provider or (empty) of all."""
    return _frame(session, _EARNINGS, start, end, provider_id=provider_id)


def summary(session: Session, *, start: datetime, end: datetime) -> pd.DataFrame:
    """Return for each provider: opening + earned − paid = closing, in micros; Breach when the ledger says otherwise."""
    frame = _frame(session, _SUMMARY, start, end)
    off = frame["opening_micros"] + frame["earned_micros"] - frame["paid_micros"] - frame["closing_micros"]
    if off.any():
        raise Breach(f"summaries that do not add up: {list(frame.loc[off != 0, 'provider_id'])}")
    return frame


def totals(frame: pd.DataFrame) -> dict[str, int]:
    """Return the control totals: the sum of every column of money or time, and the number of lines."""
    summed = [name for name in frame.columns if name.endswith(("_micros", "_cents", "_ms"))]
    return {"lines": len(frame)} | {name: sum(int(value) for value in frame[name]) for name in summed}


def write(frame: pd.DataFrame, path: Path, *, title: str) -> Path:
    """Write a frame as CSV or XLSX, by the path's suffix; ``title`` names the sheet. A CSV is the same each time.

    Raises InvalidInput for another suffix.
    """
    if path.suffix not in (".csv", ".xlsx"):
        raise InvalidInput(f"cannot write {path.suffix!r}", hint="end the file's name in .csv or .xlsx")
    table = _for_people(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False, lineterminator="\r\n", encoding="utf-8")
    else:
        sheet = "".join("-" if letter in r"[]:*?/\'" else letter for letter in title)[:31] or "report"
        table.to_excel(path, index=False, sheet_name=sheet, freeze_panes=(1, 1))
    return path


def _frame(session: Session, sql: str, start: datetime, end: datetime, **more: object) -> pd.DataFrame:
    if start.tzinfo is None or end.tzinfo is None:
        raise InvalidInput("a report needs times with a zone", hint="for example 2026-01-01T00:00:00+00:00")
    result = run_sql(session, sql, start=start, end=end, **more)
    names = list(result.keys())
    rows = [[value.astimezone(UTC) if isinstance(value, datetime) else value for value in row] for row in result]
    # dtype=object keeps Python's own integers: nothing is rounded on the way through a float column with gaps.
    return pd.DataFrame(rows, columns=names, dtype=object)


def _for_people(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame as cells of text and small integers, with the control totals as its last line."""
    sums = totals(frame)
    last = {name: sums.get(name, "") for name in frame.columns}
    last[frame.columns[0]] = f"TOTAL of {sums['lines']}"
    columns: dict[str, list[object]] = {}
    for name in frame.columns:
        cells = [*frame[name], last[name]]
        if "_micros" in name:
            shown = name.replace("_micros", "_usd")
            columns[shown] = [decimal_text(cell) if isinstance(cell, int) else "" for cell in cells]
        else:
            columns[name] = [_cell(cell) for cell in cells]
    return pd.DataFrame(columns, dtype=object)


def _cell(value: object) -> object:
    """Return what is safe in a spreadsheet: no formula from somebody's text, no integer that a float would round."""
    if value is None or value is pd.NaT:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    text = str(value)
    return "'" + text if text.lstrip(" ").startswith(_FORMULA_STARTS) else text
