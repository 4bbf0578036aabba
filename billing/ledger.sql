-- What the ledger's tables must never let happen, whoever writes to them. Safe to run again.

-- Accounts that every posting touches keep no balance of their own: a hot row would make all postings queue.
CREATE OR REPLACE FUNCTION ledger_is_tracked(account text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT account !~ '^(platform|stripe):'
$$;

CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
    MESSAGE = TG_TABLE_NAME || ' is never changed: correct it with a new journal';
END
$$;

-- Accounts start empty, and only posted transfers move their balances.
CREATE OR REPLACE FUNCTION ledger_guard_account() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NEW.debits_micros = 0 AND NEW.credits_micros = 0 THEN
      RETURN NEW;
    END IF;
  ELSIF TG_OP = 'UPDATE' THEN
    -- Depth 1 is this trigger for a plain UPDATE; ledger_move() below comes here at depth 2.
    IF pg_trigger_depth() > 1 AND NEW.name = OLD.name THEN
      RETURN NEW;
    END IF;
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'restrict_violation',
    MESSAGE = 'the balance of an account moves only by posting a journal';
END
$$;

-- One update per account and statement, rows locked in the order of their names.
CREATE OR REPLACE FUNCTION ledger_move() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM ledger_account
    WHERE ledger_is_tracked(name)
      AND name IN (SELECT debit_account FROM added UNION SELECT credit_account FROM added)
    ORDER BY name FOR UPDATE;
  UPDATE ledger_account AS account
    SET debits_micros = account.debits_micros + moved.debits,
        credits_micros = account.credits_micros + moved.credits
    FROM (
      SELECT name, sum(debit)::bigint AS debits, sum(credit)::bigint AS credits
      FROM (
        SELECT debit_account AS name, amount_micros AS debit, 0 AS credit FROM added
        UNION ALL
        SELECT credit_account, 0, amount_micros FROM added
      ) AS sides
      GROUP BY name
    ) AS moved
    WHERE account.name = moved.name AND ledger_is_tracked(account.name);
  RETURN NULL;
END
$$;

-- A journal is complete at its commit: no transfer is missing, and none is added later.
CREATE OR REPLACE FUNCTION ledger_check_journal() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
  journal_to_check bigint := CASE TG_TABLE_NAME WHEN 'ledger_journal' THEN (to_jsonb(NEW) ->> 'id')::bigint
                                                ELSE (to_jsonb(NEW) ->> 'journal_id')::bigint END;
BEGIN
  IF (SELECT transfer_count FROM ledger_journal WHERE id = journal_to_check)
     <> (SELECT count(*) FROM ledger_transfer WHERE journal_id = journal_to_check) THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation',
      MESSAGE = 'journal ' || journal_to_check || ' has not as many transfers as it says';
  END IF;
  RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER ledger_account_guard BEFORE INSERT OR UPDATE OR DELETE ON ledger_account
  FOR EACH ROW EXECUTE FUNCTION ledger_guard_account();
CREATE OR REPLACE TRIGGER ledger_account_no_truncate BEFORE TRUNCATE ON ledger_account
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();

CREATE OR REPLACE TRIGGER ledger_journal_immutable BEFORE UPDATE OR DELETE ON ledger_journal
  FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE OR REPLACE TRIGGER ledger_journal_no_truncate BEFORE TRUNCATE ON ledger_journal
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();

CREATE OR REPLACE TRIGGER ledger_transfer_immutable BEFORE UPDATE OR DELETE ON ledger_transfer
  FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE OR REPLACE TRIGGER ledger_transfer_no_truncate BEFORE TRUNCATE ON ledger_transfer
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE OR REPLACE TRIGGER ledger_transfer_move AFTER INSERT ON ledger_transfer
  REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_move();

DROP TRIGGER IF EXISTS ledger_journal_complete ON ledger_journal;
CREATE CONSTRAINT TRIGGER ledger_journal_complete AFTER INSERT ON ledger_journal
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_check_journal();
DROP TRIGGER IF EXISTS ledger_transfer_complete ON ledger_transfer;
CREATE CONSTRAINT TRIGGER ledger_transfer_complete AFTER INSERT ON ledger_transfer
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_check_journal();
