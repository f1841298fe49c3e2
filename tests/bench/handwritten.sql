-- The hand-written SKIP LOCKED queue that pgq is compared with: one heap, one partial-free index in the
-- order of the claim, tuned as a good engineer would. The benchmark's workers claim with claim_one.pgbench.
CREATE TABLE hand_job (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    priority integer NOT NULL DEFAULT 0,
    run_at   timestamptz NOT NULL DEFAULT now(),
    args     jsonb NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX hand_job_claim_idx ON hand_job (priority DESC, id);

CREATE TABLE hand_effect (n bigint);

-- What a job does: the same insert as pgq's handler, called as a function of its args.
CREATE FUNCTION hand_work(args jsonb) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO hand_effect VALUES ((args->>'n')::bigint); END $$;
