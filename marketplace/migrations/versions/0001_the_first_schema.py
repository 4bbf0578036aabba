"""The first schema."""

import sqlalchemy as sa
from alembic import op

from billing.models import constraints_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "account",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("country", sa.String(), nullable=False),
        sa.Column("vetted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "lease_earning",
        sa.Column("lease_id", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("payable_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payout_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("lease_id"),
    )
    op.create_index(op.f("ix_lease_earning_payable_at"), "lease_earning", ["payable_at"], unique=False)
    op.create_index(op.f("ix_lease_earning_payout_id"), "lease_earning", ["payout_id"], unique=False)
    op.create_index(
        "lease_earning_unpaid",
        "lease_earning",
        ["provider_id"],
        unique=False,
        postgresql_where=sa.text("payout_id IS NULL"),
    )
    op.create_table(
        "ledger_account",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("debits_micros", sa.BigInteger(), nullable=False),
        sa.Column("credits_micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            r"name ~ '^(stripe\:(pending|available)|platform\:fee|buyer\:[^\:]+\:available|hold\:[^\:]+|provider\:[^\:]+\:(pending|payable)|payout\:[^\:]+\:in_flight)$'",
            name="ledger_account_in_chart",
        ),
        sa.CheckConstraint(
            "debits_micros >= 0 AND credits_micros >= debits_micros", name="ledger_account_no_overdraft"
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "ledger_journal",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("transfer_count", sa.Integer(), nullable=False),
        sa.Column("posted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index(op.f("ix_ledger_journal_posted_at"), "ledger_journal", ["posted_at"], unique=False)
    op.create_index(op.f("ix_ledger_journal_reference"), "ledger_journal", ["reference"], unique=False)
    op.create_table(
        "payout",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("stripe_account_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("gross_micros", sa.BigInteger(), nullable=False),
        sa.Column("carried_in_micros", sa.BigInteger(), nullable=False),
        sa.Column("carried_out_micros", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("voided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("transfer_id", sa.String(), nullable=True),
        sa.Column("destination_payment_id", sa.String(), nullable=False),
        sa.Column("failure", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("transfer_id"),
    )
    op.create_index(op.f("ix_payout_created_at"), "payout", ["created_at"], unique=False)
    op.create_index(op.f("ix_payout_provider_id"), "payout", ["provider_id"], unique=False)
    op.create_table(
        "payout_account",
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("stripe_account_id", sa.String(), nullable=False),
        sa.Column("country", sa.String(), nullable=False),
        sa.Column("not_payable", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("provider_id"),
        sa.UniqueConstraint("stripe_account_id"),
    )
    op.create_table(
        "probe",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "at_ms"),
    )
    op.create_table(
        "reading",
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("alive", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", "at_ms"),
    )
    op.create_table(
        "settled_lease",
        sa.Column("lease_id", sa.String(), nullable=False),
        sa.Column("buyer_id", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("device_class", sa.String(), nullable=False),
        sa.Column("rate_micros_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("fee_bps", sa.Integer(), nullable=False),
        sa.Column("claimed_ms", sa.BigInteger(), nullable=False),
        sa.Column("verified_ms", sa.BigInteger(), nullable=False),
        sa.Column("unpaid_reason", sa.String(), nullable=False),
        sa.Column("charge_micros", sa.BigInteger(), nullable=False),
        sa.Column("earning_micros", sa.BigInteger(), nullable=False),
        sa.Column("fee_micros", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("charge_micros = earning_micros + fee_micros", name="settled_lease_adds_up"),
        sa.CheckConstraint(
            "least(rate_micros_per_hour, fee_bps, claimed_ms, verified_ms, earning_micros, fee_micros) >= 0",
            name="settled_lease_not_negative",
        ),
        sa.PrimaryKeyConstraint("lease_id"),
    )
    op.create_index(op.f("ix_settled_lease_buyer_id"), "settled_lease", ["buyer_id"], unique=False)
    op.create_index(op.f("ix_settled_lease_provider_id"), "settled_lease", ["provider_id"], unique=False)
    op.create_index(op.f("ix_settled_lease_settled_at"), "settled_lease", ["settled_at"], unique=False)
    op.create_table(
        "tick",
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("book_hash", sa.String(), nullable=False),
        sa.Column("seed", sa.String(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "wallet_hold",
        sa.Column("lease_id", sa.String(), nullable=False),
        sa.Column("buyer_id", sa.String(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("held_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("lease_id"),
    )
    op.create_index(op.f("ix_wallet_hold_buyer_id"), "wallet_hold", ["buyer_id"], unique=False)
    op.create_table(
        "wallet_topup",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("buyer_id", sa.String(), nullable=False),
        sa.Column("amount_cents", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("checkout_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("checkout_id"),
    )
    op.create_index(op.f("ix_wallet_topup_buyer_id"), "wallet_topup", ["buyer_id"], unique=False)
    op.create_table(
        "warden_seen",
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cluster_id"),
    )
    op.create_table(
        "webhook_event",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("payload", sa.String(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_webhook_event_processed_at"), "webhook_event", ["processed_at"], unique=False)
    op.create_table(
        "api_key",
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=True),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
        ),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index(op.f("ix_api_key_account_id"), "api_key", ["account_id"], unique=False)
    op.create_table(
        "cluster",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("max_price_micros_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("budget_micros", sa.BigInteger(), nullable=False),
        sa.Column("max_nodes", sa.Integer(), nullable=False),
        sa.Column("idle_timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("lease_ms", sa.Integer(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("trust", sa.String(), nullable=False),
        sa.Column("kinds", sa.JSON(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("head_address", sa.String(), nullable=False),
        sa.Column("dashboard_url", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopping_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("warned", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_cluster_account_id"), "cluster", ["account_id"], unique=False)
    op.create_index(op.f("ix_cluster_state"), "cluster", ["state"], unique=False)
    op.create_table(
        "device",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("gpu_memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("device_class", sa.String(), nullable=False),
        sa.Column("score_millis", sa.Integer(), nullable=False),
        sa.Column("python_version", sa.String(), nullable=False),
        sa.Column("ray_version", sa.String(), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("public_key"),
    )
    op.create_index(op.f("ix_device_account_id"), "device", ["account_id"], unique=False)
    op.create_index(op.f("ix_device_device_class"), "device", ["device_class"], unique=False)
    op.create_table(
        "invite",
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
        ),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_table(
        "ledger_transfer",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("journal_id", sa.BigInteger(), nullable=False),
        sa.Column("debit_account", sa.String(), nullable=False),
        sa.Column("credit_account", sa.String(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_micros > 0", name="ledger_transfer_positive"),
        sa.CheckConstraint("debit_account <> credit_account", name="ledger_transfer_between_two"),
        sa.ForeignKeyConstraint(
            ["credit_account"],
            ["ledger_account.name"],
        ),
        sa.ForeignKeyConstraint(
            ["debit_account"],
            ["ledger_account.name"],
        ),
        sa.ForeignKeyConstraint(
            ["journal_id"],
            ["ledger_journal.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_ledger_transfer_credit_account"), "ledger_transfer", ["credit_account"], unique=False)
    op.create_index(op.f("ix_ledger_transfer_debit_account"), "ledger_transfer", ["debit_account"], unique=False)
    op.create_index(op.f("ix_ledger_transfer_journal_id"), "ledger_transfer", ["journal_id"], unique=False)
    op.create_table(
        "payout_operation",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("payout_id", sa.String(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("absent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["payout_id"],
            ["payout.id"],
        ),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index(op.f("ix_payout_operation_due_at"), "payout_operation", ["due_at"], unique=False)
    op.create_index(op.f("ix_payout_operation_payout_id"), "payout_operation", ["payout_id"], unique=False)
    op.create_index(
        "payout_operation_one_live",
        "payout_operation",
        ["payout_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('queued', 'sending', 'unsure')"),
    )
    op.create_table(
        "ask",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("reserve_micros_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lost_clearings", sa.Integer(), nullable=False),
        sa.Column("last_loss", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["account.id"],
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("device_id"),
    )
    op.create_index(op.f("ix_ask_account_id"), "ask", ["account_id"], unique=False)
    op.create_table(
        "bid",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("device_class", sa.String(), nullable=False),
        sa.Column("limit_micros_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("close_reason", sa.String(), nullable=False),
        sa.Column("lost_clearings", sa.Integer(), nullable=False),
        sa.Column("last_loss", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cluster_id"],
            ["cluster.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_bid_cluster_id"), "bid", ["cluster_id"], unique=False)
    op.create_index(op.f("ix_bid_state"), "bid", ["state"], unique=False)
    op.create_table(
        "cluster_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cluster_id"],
            ["cluster.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_cluster_event_cluster_id"), "cluster_event", ["cluster_id"], unique=False)
    op.create_table(
        "job",
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("submission_id", sa.String(), nullable=False),
        sa.Column("entrypoint", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["cluster_id"],
            ["cluster.id"],
        ),
        sa.PrimaryKeyConstraint("cluster_id", "submission_id"),
    )
    op.create_table(
        "lease",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("bid_id", sa.String(), nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("buyer_id", sa.String(), nullable=False),
        sa.Column("provider_id", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=False),
        sa.Column("device_class", sa.String(), nullable=False),
        sa.Column("tick", sa.BigInteger(), nullable=False),
        sa.Column("renews_id", sa.String(), nullable=True),
        sa.Column("price_micros_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("score_millis", sa.Integer(), nullable=False),
        sa.Column("rate_micros_per_hour", sa.BigInteger(), nullable=False),
        sa.Column("fee_bps", sa.Integer(), nullable=False),
        sa.Column("hold_micros", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("notice", sa.String(), nullable=False),
        sa.Column("close_reason", sa.String(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_alive_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_busy_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_ms", sa.BigInteger(), nullable=False),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verified_ms", sa.BigInteger(), nullable=False),
        sa.Column("charge_micros", sa.BigInteger(), nullable=False),
        sa.Column("earning_micros", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["bid_id"],
            ["bid.id"],
        ),
        sa.ForeignKeyConstraint(
            ["cluster_id"],
            ["cluster.id"],
        ),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["device.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_lease_bid_id"), "lease", ["bid_id"], unique=False)
    op.create_index(op.f("ix_lease_cluster_id"), "lease", ["cluster_id"], unique=False)
    op.create_index(op.f("ix_lease_provider_id"), "lease", ["provider_id"], unique=False)
    op.create_index(op.f("ix_lease_state"), "lease", ["state"], unique=False)
    op.create_index(
        "lease_one_next_a_device", "lease", ["device_id"], unique=True, postgresql_where=sa.text("state = 'next'")
    )
    op.create_index(
        "lease_one_open_a_bid", "lease", ["bid_id"], unique=True, postgresql_where=sa.text("state = 'open'")
    )
    op.create_index(
        "lease_one_open_a_device", "lease", ["device_id"], unique=True, postgresql_where=sa.text("state = 'open'")
    )
    op.create_table(
        "usage_window",
        sa.Column("lease_id", sa.String(), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("end_ms", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["lease_id"],
            ["lease.id"],
        ),
        sa.PrimaryKeyConstraint("lease_id", "start_ms"),
    )
    op.execute(sa.text(constraints_sql().replace(":", r"\:")))


def downgrade() -> None:
    """Undo."""
    op.drop_table("usage_window")
    op.drop_index("lease_one_open_a_device", table_name="lease", postgresql_where=sa.text("state = 'open'"))
    op.drop_index("lease_one_open_a_bid", table_name="lease", postgresql_where=sa.text("state = 'open'"))
    op.drop_index("lease_one_next_a_device", table_name="lease", postgresql_where=sa.text("state = 'next'"))
    op.drop_index(op.f("ix_lease_state"), table_name="lease")
    op.drop_index(op.f("ix_lease_provider_id"), table_name="lease")
    op.drop_index(op.f("ix_lease_cluster_id"), table_name="lease")
    op.drop_index(op.f("ix_lease_bid_id"), table_name="lease")
    op.drop_table("lease")
    op.drop_table("job")
    op.drop_index(op.f("ix_cluster_event_cluster_id"), table_name="cluster_event")
    op.drop_table("cluster_event")
    op.drop_index(op.f("ix_bid_state"), table_name="bid")
    op.drop_index(op.f("ix_bid_cluster_id"), table_name="bid")
    op.drop_table("bid")
    op.drop_index(op.f("ix_ask_account_id"), table_name="ask")
    op.drop_table("ask")
    op.drop_index(
        "payout_operation_one_live",
        table_name="payout_operation",
        postgresql_where=sa.text("status IN ('queued', 'sending', 'unsure')"),
    )
    op.drop_index(op.f("ix_payout_operation_payout_id"), table_name="payout_operation")
    op.drop_index(op.f("ix_payout_operation_due_at"), table_name="payout_operation")
    op.drop_table("payout_operation")
    op.drop_index(op.f("ix_ledger_transfer_journal_id"), table_name="ledger_transfer")
    op.drop_index(op.f("ix_ledger_transfer_debit_account"), table_name="ledger_transfer")
    op.drop_index(op.f("ix_ledger_transfer_credit_account"), table_name="ledger_transfer")
    op.drop_table("ledger_transfer")
    op.drop_table("invite")
    op.drop_index(op.f("ix_device_device_class"), table_name="device")
    op.drop_index(op.f("ix_device_account_id"), table_name="device")
    op.drop_table("device")
    op.drop_index(op.f("ix_cluster_state"), table_name="cluster")
    op.drop_index(op.f("ix_cluster_account_id"), table_name="cluster")
    op.drop_table("cluster")
    op.drop_index(op.f("ix_api_key_account_id"), table_name="api_key")
    op.drop_table("api_key")
    op.drop_index(op.f("ix_webhook_event_processed_at"), table_name="webhook_event")
    op.drop_table("webhook_event")
    op.drop_table("warden_seen")
    op.drop_index(op.f("ix_wallet_topup_buyer_id"), table_name="wallet_topup")
    op.drop_table("wallet_topup")
    op.drop_index(op.f("ix_wallet_hold_buyer_id"), table_name="wallet_hold")
    op.drop_table("wallet_hold")
    op.drop_table("tick")
    op.drop_index(op.f("ix_settled_lease_settled_at"), table_name="settled_lease")
    op.drop_index(op.f("ix_settled_lease_provider_id"), table_name="settled_lease")
    op.drop_index(op.f("ix_settled_lease_buyer_id"), table_name="settled_lease")
    op.drop_table("settled_lease")
    op.drop_table("reading")
    op.drop_table("probe")
    op.drop_table("payout_account")
    op.drop_index(op.f("ix_payout_provider_id"), table_name="payout")
    op.drop_index(op.f("ix_payout_created_at"), table_name="payout")
    op.drop_table("payout")
    op.drop_index(op.f("ix_ledger_journal_reference"), table_name="ledger_journal")
    op.drop_index(op.f("ix_ledger_journal_posted_at"), table_name="ledger_journal")
    op.drop_table("ledger_journal")
    op.drop_table("ledger_account")
    op.drop_index("lease_earning_unpaid", table_name="lease_earning", postgresql_where=sa.text("payout_id IS NULL"))
    op.drop_index(op.f("ix_lease_earning_payout_id"), table_name="lease_earning")
    op.drop_index(op.f("ix_lease_earning_payable_at"), table_name="lease_earning")
    op.drop_table("lease_earning")
    op.drop_table("account")
    for name in ("is_tracked", "refuse", "guard_account", "move", "check_journal"):
        op.execute(f"DROP FUNCTION IF EXISTS ledger_{name} CASCADE")
