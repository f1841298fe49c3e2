-- The hand-written SKIP LOCKED queue that pgq is compared with, tuned as a good engineer would: one heap,
-- one index in the order of the claim, in which jobs for later lie behind those that are due, and
-- autovacuum that comes early and is not throttled. It has no attempts, retries, keys or history.
-- Its workers claim with claim_one.pgbench and claim_hundred.pgbench: claim, effect and removal are one
-- statement and one commit, so it is exactly once; a batch fails as a whole.
CREATE TABLE hand_job (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    priority integer NOT NULL DEFAULT 0,
    run_at   timestamptz NOT NULL DEFAULT now(),
    args     jsonb NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000
);

CREATE INDEX hand_job_claim_idx ON hand_job (priority DESC, run_at, id);

-- What its jobs do: the same insert as pgq's handlers, in the statement of the claim.
CREATE TABLE hand_effect (n bigint);
